/* hot.h - helios_shm._hot: what Python code does so often that a call through cffi and a Python method would cost more than the
 * work itself, as a CPython extension in the same shared library as the cffi module.
 *
 *   class Snapshot(_hot.SnapshotBase, Mapping)            hot method (C):  the frequent case, start to end
 *   class Workspace(_hot.WorkspaceBase, MutableMapping)        |
 *   class Branch(_hot.BranchBase)                              +-> anything else: the Python method beside it (`_commit` ...),
 *   class Commit(_hot.CommitBase)                                  which goes through cffi and drops the GIL
 *   class Attachment(_hot.AttachmentBase), Call(_hot.CallBase)
 *
 * A base type holds the fields that C reads; the Python class that inherits it has all the rest, and is the public name.
 *
 * Who keeps a state holds a lease of it (hs_lease.h): a Snapshot of its root, a Workspace of its base, unless its base_snapshot does, a
 * Commit of the root in its record. What is held is `trusted` when it is known to be whole: it was held by somebody all the time, or came
 * from a head that stood under the same collection word, or nothing was ever deleted. What is not is looked for on first use
 * (Snapshot._validate), and may turn out to have been collected. Hot methods take what is trusted alone.
 *
 * Invariants. Hot methods keep the GIL from beginning to end and never wait: the engine's mutex is tried, and whoever finds
 * it taken goes the other way. The call is the last of the attachment's pool, and stays there: nobody else can take it while
 * the GIL is held. A pool that is empty (just forked, or all calls are out) or no plain list (closed) goes the other way
 * too. So these files know nothing of forks, closing, L2, waits or Ctrl-C. hot_files.c is another matter: functions that touch no
 * engine, drop the GIL, and are here because they take and make many objects. */
#ifndef HOT_H
#define HOT_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include "../hs_engine.h"

typedef struct hot_attachment {
    PyObject_HEAD PyObject *pool; /* list of Call: those that nobody uses */
    unsigned long long leases;    /* address of the hs_leases, which ends with this object; 0: none yet */
    char readonly;
} hot_attachment;

typedef struct hot_call {
    PyObject_HEAD unsigned long long address; /* of the hs_call, which cffi owns */
} hot_call;

typedef struct hot_branch {
    PyObject_HEAD unsigned long long address; /* of the hs_branch_ref, which cffi owns */
} hot_branch;

typedef struct hot_snapshot {
    PyObject_HEAD PyObject *attachment; /* Attachment */
    PyObject *root;                     /* bytes, 32 */
    PyObject *read;                     /* dict: path to value, of what was read */
    char leased, trusted;
} hot_snapshot;

typedef struct hot_commit {
    PyObject_HEAD PyObject *attachment;
    PyObject *record; /* bytes; NULL in a commit that was not made from one */
    char leased, trusted;
} hot_commit;

#define HOT_BASE_SIZE_MAX 40
typedef struct hot_workspace {
    PyObject_HEAD PyObject *attachment;
    PyObject *branch;        /* Branch or None */
    PyObject *base_snapshot; /* Snapshot; None: made when it is asked for */
    PyObject *edits;         /* dict: path to bytes, to None, or to another edit that only Python knows */
    uint8_t base[HOT_BASE_SIZE_MAX]; /* root id; on a branch, followed by the incarnation */
    uint8_t base_size;
    char leased, trusted;
} hot_workspace;

extern PyTypeObject hot_attachment_type, hot_call_type, hot_branch_type, hot_snapshot_type, hot_commit_type,
    hot_workspace_type, hot_scan_type, hot_l1_type, hot_edits_type;

/* A field that takes instances of one type alone (and None, where it may be absent), since C relies on it: the closure of a
 * PyGetSetDef. Everything else is a TypeError. */
typedef struct hot_field {
    Py_ssize_t offset;
    PyTypeObject *type;
    bool or_none;
} hot_field;
PyObject *hot_field_get(PyObject *self, void *field);
int hot_field_set(PyObject *self, PyObject *value, void *field);

/* The call at the end of an attachment's pool, which stays there; NULL: take the other way. No exception is set. */
hs_call *hot_peek_call(PyObject *attachment);

/* The engine's mutex, if it is free. While it is held, the collector rests: a finaliser that it ran might want the same
 * mutex, and wait for ever. Ended by hot_unlock. */
typedef struct hot_lock {
    hs_engine *engine;
    int collects;
} hot_lock;
static inline bool hot_try_lock(hot_lock *lock, hs_engine *engine) {
    if (!hs_engine_try_lock(engine)) return false;
    *lock = (hot_lock){engine, PyGC_Disable()};
    return true;
}
static inline void hot_unlock(const hot_lock *lock) {
    hs_engine_unlock(lock->engine);
    if (lock->collects) PyGC_Enable();
}

/* The root id of a snapshot that is trusted; NULL: it has none yet, or must be looked for. */
static inline const uint8_t *hot_root(const hot_snapshot *snapshot) {
    return snapshot->trusted ? (const uint8_t *)PyBytes_AS_STRING(snapshot->root) : NULL;
}

static inline hs_leases *hot_leases(PyObject *attachment) {
    return (hs_leases *)(uintptr_t)((hot_attachment *)attachment)->leases;
}
/* Hold a state. `under`: the collection word under which it was seen to be there, odd if it was not. -1 with MemoryError. */
int hot_hold(PyObject *attachment, const uint8_t *root, unsigned long long under, char *leased,
             char *trusted);
/* Hold it no more, if it was held. */
static inline void hot_let_go(PyObject *attachment, const uint8_t *root, char *leased) {
    if (*leased) hs_lease_drop(hot_leases(attachment), root, 1);
    *leased = 0;
}
#define HOT_UNSEEN 1ull /* the collection word of what nobody has seen to be there */

/* The method SnapshotBase._scan. */
PyObject *hot_scan_make(PyObject *snapshot, PyObject *const *args, Py_ssize_t count);

/* A Commit of a record's bytes. */
PyObject *hot_commit_make(PyObject *record, PyObject *attachment, unsigned long long under);
/* The same, for who holds a lease of its root, which the Commit has from then on. */
PyObject *hot_commit_give(PyObject *record, PyObject *attachment);
/* The Snapshot of a root's 32 bytes. */
PyObject *hot_snapshot_make(PyObject *attachment, PyObject *root, unsigned long long under);

/* Functions of the module: hot_files.c. They drop the GIL. */
PyObject *hot_files_list(PyObject *module, PyObject *args);
PyObject *hot_files_read(PyObject *module, PyObject *args);
PyObject *hot_files_write(PyObject *module, PyObject *args);
PyObject *hot_files_same(PyObject *module, PyObject *args);
PyObject *hot_files_directory(PyObject *module, PyObject *args);

/* Once, before the types are made ready. -1 with an exception. */
int hot_workspace_init(void);
int hot_snapshot_init(void);
int hot_scan_init(void);
int hot_l1_init(void);

#define HOT_VALUE_SIZE_MAX 65536 /* larger ones are copied without the GIL */

/* What the Python classes above this module are, told once by `bind`. */
typedef struct hot_bound {
    PyTypeObject *commit, *snapshot, *workspace; /* Commit, Snapshot and Workspace, whose instances C makes */
    Py_ssize_t large;                            /* values of so many bytes are handed over in another form */
    Py_ssize_t read_size_max, read_count_max; /* values that a snapshot remembers: their size, and how many */
} hot_bound;
extern hot_bound hot_bound_types;
#endif
