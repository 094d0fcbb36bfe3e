from hypothesis import settings

# The search for doctests would import both, but two modules cannot share a name.
collect_ignore = ["conftest.py", "book/conftest.py"]

# No deadline: on a shared machine, an example can be slow without any fault.
settings.register_profile("memembed", deadline=None)
settings.load_profile("memembed")
