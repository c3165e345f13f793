"""Compiled passes from bytes to columns."""
