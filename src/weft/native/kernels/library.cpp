// What the Python side asks before it calls anything else.
#include "vector.h"

WEFT_EXPORT int weft_abi() { return 3; }
