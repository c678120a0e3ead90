// A library of two functions, of which one calls the other: LORICA_PREFIX is before their names.
#define LORICA_JOINED(prefix, name) prefix##name
#define LORICA_NAME(prefix, name) LORICA_JOINED(prefix, name)

extern "C" int LORICA_NAME(LORICA_PREFIX, Asked)() { return 1; }
extern "C" int LORICA_NAME(LORICA_PREFIX, Ask)() { return LORICA_NAME(LORICA_PREFIX, Asked)(); }
