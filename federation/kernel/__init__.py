"""Words shared by every package: errors, limits, versions, codecs, units. Imports nothing of ours."""
