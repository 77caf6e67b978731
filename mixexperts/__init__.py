"""Statistical mixture-of-experts models."""
