"""Bytes to blocks: JSON and table rows become columnar batches; what cannot is counted by reason."""
