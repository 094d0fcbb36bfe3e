"""The experiments of chapters 5 to 8, which take too long for a chapter."""
