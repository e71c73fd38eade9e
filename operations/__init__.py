"""Commands for operators, and generators for parts of the documentation. Nothing here is deployed."""
