"""Other tools' detectors on the streams of this benchmark; see `__main__`."""
