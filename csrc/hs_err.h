/* hs_err.h - the thread's errno of the last HS_SYSTEM; its text is for people. The only state kept outside of objects. */
#ifndef HS_ERR_H
#define HS_ERR_H
#include "helios_shm.h"

/* Turn `error` (an errno) into a status: HS_NO_SPACE, HS_NO_MEMORY or HS_SYSTEM. The thread's hs_errno() becomes it. */
int hs_err_system(int error);
#endif
