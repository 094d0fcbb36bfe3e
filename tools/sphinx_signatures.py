"""Show a Keras class in the API pages with the signature of its own __init__.

Autodoc would show the signature of keras.Layer.__new__: (*args, **kwargs). It would
also list the fields of a named tuple, with "Alias for field number 0".
"""

import inspect

from sphinx.util.inspect import stringify_signature


def own_signature(app, what, name, obj, options, signature, returns):
    """Replace the signature of `keras.Layer.__new__`."""
    if what == "class" and signature == "(*args, **kwargs)":
        own = inspect.signature(obj.__init__)
        parameters = list(own.parameters.values())[1:]  # without self
        own = own.replace(parameters=parameters)
        # The types are in the list of parameters below: autodoc_typehints.
        return stringify_signature(own, show_annotation=False), returns


def is_undescribed_field(app, what, name, obj, skip, options):
    """Leave out fields of a named tuple: its own description names them."""
    described = not str(obj.__doc__).startswith("Alias for field number")
    return None if described else True


def setup(app):
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-skip-member", is_undescribed_field)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
