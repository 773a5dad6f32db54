"""Networks that compute triangle waves."""
