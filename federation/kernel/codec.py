"""What decoding foreign bytes may raise: catch `MALFORMED`, never a part of it."""

import msgspec

# msgspec lets the last two through as they are: a string that is not UTF-8, and arrays within arrays without end.
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
