"""Pictures and tables: error heat maps on meshes, curves, aligned text. Needs matplotlib."""
