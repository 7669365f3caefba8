"""The exact memory inside other libraries: `avalanche` and `river`, each imported only by who uses it."""
