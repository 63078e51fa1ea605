"""Fields: networks that represent one signal each (implicit neural representations)."""
