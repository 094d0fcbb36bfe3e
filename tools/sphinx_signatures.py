"""Show a Keras class in the API pages with the signature of its own __init__.

Autodoc would show the signature of keras.Layer.__new__: (*args, **kwargs).
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


def setup(app):
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", own_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
