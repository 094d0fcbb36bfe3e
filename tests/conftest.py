from hypothesis import settings

# An example that takes long says more about a shared machine than about the code.
settings.register_profile("memembed", deadline=None)
settings.load_profile("memembed")
