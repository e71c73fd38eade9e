"""Firebase's callable functions."""
