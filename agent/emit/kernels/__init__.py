"""Compiled code of exports."""
