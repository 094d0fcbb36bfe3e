from hypothesis import settings

# Doctests would be looked for in both, which cannot be two modules of one name.
collect_ignore = ["conftest.py", "book/conftest.py"]

# An example that takes long says more about a shared machine than about the code.
settings.register_profile("memembed", deadline=None)
settings.load_profile("memembed")
