/* hot_snapshot.c - SnapshotBase: reading a value, looking whether a path is there, forking. See hot.h.
 *
 *   snapshot[path]       read before; else out of the tree and L1, into a fresh bytes object    else  _look_up(path)
 *   path in snapshot     read before; else found in the tree, or not                            else  _contains(path)
 *   snapshot.fork()                                                                             else  _fork()
 *
 * "Else": a path that is no plain str, a node or value that only L2 has, values that are large or encoded, an absent path,
 * and what hot.h names. */
#include "hot.h"
#include <sys/mman.h>
#include "../hs_read.h"

#define AHEAD_STEP       ((size_t)60 << 10) /* from 64 KiB on, free() may give memory back to the system */
#define AHEAD_PAGE       ((size_t)4096)     /* where pages are larger, nothing is done */
#define AHEAD_ADVICE     23                 /* MADV_POPULATE_WRITE, which older C libraries do not name */
#define SMALL_OBJECT_MAX 512                /* up to here Python has memory of its own */

static PyObject *name_look_up, *name_contains, *name_fork, *name_forget_on_close;

/* --- fields --- */

static int traverse(hot_snapshot *self, visitproc visit, void *arg) {
    Py_VISIT(self->attachment);
    Py_VISIT(self->read);
    return 0;
}

static int clear(hot_snapshot *self) {
    if (self->leased)
        hot_let_go(self->attachment, (const uint8_t *)PyBytes_AS_STRING(self->root), &self->leased);
    self->trusted = 0;
    Py_CLEAR(self->attachment);
    Py_CLEAR(self->root);
    Py_CLEAR(self->read);
    return 0;
}

static void dealloc(hot_snapshot *self) {
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* --- single entries --- */

/* A path's bytes in the tree, kept by the str itself; NULL for a lone surrogate. */
static const uint8_t *key_of(PyObject *path, size_t *size) {
    Py_ssize_t bytes;
    const char *key = PyUnicode_AsUTF8AndSize(path, &bytes);
    if (key == NULL)
        PyErr_Clear();
    else
        *size = (size_t)bytes;
    return (const uint8_t *)key;
}

/* Find a path, with the mutex held on return if the result is HS_OK. HS_WAIT: nothing was looked at. */
static int find(hot_snapshot *self, PyObject *path, hs_call **call, hot_lock *lock, hs_value *value) {
    size_t size;
    const uint8_t *root = hot_root(self), *key;
    if (root == NULL || (*call = hot_peek_call(self->attachment)) == NULL) return HS_WAIT;
    if ((key = key_of(path, &size)) == NULL || !hot_try_lock(lock, (*call)->engine)) return HS_WAIT;
    int status = hs_read_find(*call, root, key, size, value);
    if (status != HS_OK) hot_unlock(lock);
    return status;
}

/* NULL without an exception: the other way. */
static PyObject *value_read(hot_snapshot *self, PyObject *path) {
    hs_call *call;
    hot_lock lock;
    hs_value found;
    if (find(self, path, &call, &lock, &found) != HS_OK) return NULL;
    PyObject *value = NULL;
    if (found.size <= HOT_VALUE_SIZE_MAX) value = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)found.size);
    if (value != NULL) {
        uint8_t *to = (uint8_t *)PyBytes_AS_STRING(value);
        if (hs_read_value(call, &found, to, (size_t)found.size) != (int64_t)found.size) Py_CLEAR(value);
    }
    hot_unlock(&lock);
    if (value == NULL) PyErr_Clear();
    return value;
}

/* Values that are kept take fresh memory from the heap, and a page of that costs as much as a read when it is first
 * touched: so it is asked for some steps ahead, many pages at a time, by taking it from malloc and giving it back. */
static void heap_ahead(size_t size) {
    static size_t taken; /* since the last step; the GIL is held */
    if (size <= SMALL_OBJECT_MAX || (taken += size) < AHEAD_STEP) return;
    taken = 0;
    uint8_t *ahead = malloc(AHEAD_STEP);
    uintptr_t from = hs_align_up((uintptr_t)ahead, AHEAD_PAGE), to = (uintptr_t)ahead + AHEAD_STEP;
    if (ahead != NULL) (void)madvise((void *)from, (to - from) / AHEAD_PAGE * AHEAD_PAGE, AHEAD_ADVICE);
    free(ahead);
}

/* Whoever remembers any value is told when the attachment is closed. */
static int remember_first(hot_snapshot *self) {
    PyObject *done = PyObject_CallMethodOneArg(self->attachment, name_forget_on_close, (PyObject *)self);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Keep a small value. */
static int remember(hot_snapshot *self, PyObject *path, PyObject *value) {
    if (PyBytes_GET_SIZE(value) > hot_bound_types.read_size_max) return 0;
    PyObject *read = Py_NewRef(self->read); /* Python code may take it away */
    int status = 0;
    if (PyDict_GET_SIZE(read) == 0)
        status = remember_first(self);
    else if (PyDict_GET_SIZE(read) >= hot_bound_types.read_count_max)
        PyDict_Clear(read);
    heap_ahead(sizeof(PyBytesObject) + (size_t)PyBytes_GET_SIZE(value));
    if (status == 0) status = PyDict_SetItem(read, path, value);
    Py_DECREF(read);
    return status;
}

static PyObject *get_item(hot_snapshot *self, PyObject *path) {
    if (PyUnicode_CheckExact(path) && self->read != NULL && PyDict_CheckExact(self->read)) {
        PyObject *value = PyDict_GetItemWithError(self->read, path);
        if (value != NULL) return Py_NewRef(value);
        if (PyErr_Occurred()) return NULL;
        value = value_read(self, path);
        if (value != NULL) {
            if (remember(self, path, value) < 0) Py_CLEAR(value);
            return value;
        }
    }
    return PyObject_CallMethodOneArg((PyObject *)self, name_look_up, path);
}

static int contains(hot_snapshot *self, PyObject *path) {
    if (PyUnicode_CheckExact(path)) {
        hs_call *call;
        hot_lock lock;
        hs_value found;
        int status = find(self, path, &call, &lock, &found);
        if (status == HS_OK) hot_unlock(&lock);
        if (status == HS_OK || status == HS_NOT_FOUND) return status == HS_OK;
    }
    PyObject *answer = PyObject_CallMethodOneArg((PyObject *)self, name_contains, path);
    int is_there = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return is_there;
}

/* --- forking --- */

static PyObject *fork_make(hot_snapshot *self) {
    PyTypeObject *type = hot_bound_types.workspace;
    hot_workspace *workspace = (hot_workspace *)type->tp_alloc(type, 0);
    if (workspace == NULL) return NULL;
    workspace->attachment = Py_NewRef(self->attachment);
    workspace->branch = Py_NewRef(Py_None);
    workspace->base_snapshot = Py_NewRef((PyObject *)self);
    workspace->base_size = 32;
    workspace->trusted = 1; /* and held by the snapshot */
    memcpy(workspace->base, PyBytes_AS_STRING(self->root), 32);
    workspace->edits = PyDict_New();
    if (workspace->edits == NULL) Py_CLEAR(workspace);
    return (PyObject *)workspace;
}

static PyObject *fork_(hot_snapshot *self, PyObject *Py_UNUSED(none)) {
    if (hot_root(self) != NULL && hot_bound_types.workspace != NULL &&
        hot_peek_call(self->attachment) != NULL)
        return fork_make(self);
    return PyObject_CallMethodNoArgs((PyObject *)self, name_fork);
}

/* --- the type --- */

PyObject *hot_snapshot_make(PyObject *attachment, PyObject *root, unsigned long long under) {
    PyTypeObject *type = hot_bound_types.snapshot;
    hot_snapshot *snapshot = (hot_snapshot *)type->tp_alloc(type, 0);
    if (snapshot == NULL) return NULL;
    snapshot->attachment = Py_NewRef(attachment);
    snapshot->root = Py_NewRef(root);
    snapshot->read = PyDict_New();
    if (snapshot->read == NULL || hot_hold(attachment, (const uint8_t *)PyBytes_AS_STRING(root), under,
                                           &snapshot->leased, &snapshot->trusted) < 0)
        Py_CLEAR(snapshot);
    return (PyObject *)snapshot;
}

/* Python has found the state, or somebody who holds it. */
static int trusted_set(hot_snapshot *self, PyObject *value, void *Py_UNUSED(closure)) {
    int trusted = value == NULL ? -1 : PyObject_IsTrue(value);
    if (trusted > 0 && !self->leased) {
        PyErr_SetString(PyExc_ValueError, "a snapshot that holds no state cannot be trusted");
        return -1;
    }
    if (trusted >= 0) self->trusted = (char)trusted;
    return trusted < 0 ? -1 : 0;
}

static PyObject *trusted_get(hot_snapshot *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(self->trusted);
}

/* A snapshot is made whole, and holds its state to its end. */
static int attachment_set(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(value), void *Py_UNUSED(field)) {
    PyErr_SetString(PyExc_TypeError, "a snapshot keeps its attachment");
    return -1;
}

static const hot_field attachment_field = {offsetof(hot_snapshot, attachment), &hot_attachment_type, false};

static PyGetSetDef properties[] = {
    {"_attachment", hot_field_get, attachment_set, NULL, (void *)&attachment_field},
    {"_trusted", (getter)trusted_get, (setter)trusted_set, NULL, NULL},
    {0}};

static PyMemberDef members[] = {{"_root", T_OBJECT_EX, offsetof(hot_snapshot, root), READONLY, NULL},
                                {"_read", T_OBJECT_EX, offsetof(hot_snapshot, read), 0, NULL},
                                {0}};

static PyMappingMethods mapping = {.mp_subscript = (binaryfunc)get_item};
static PySequenceMethods sequence = {.sq_contains = (objobjproc)contains};

static PyMethodDef methods[] = {
    {"fork", (PyCFunction)(void (*)(void))fork_, METH_NOARGS,
     "fork($self)\n--\n\n"
     "A private, changeable copy: O(1), whatever the size. Its commits are detached from any branch."},
    {"_scan", (PyCFunction)(void (*)(void))hot_scan_make, METH_FASTCALL,
     "_scan($self, start, stop, reverse, items, /)\n--\n\n"
     "Iterate over the paths of a range, or over (path, value)."},
    {0}};

PyTypeObject hot_snapshot_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.SnapshotBase",
    .tp_basicsize = sizeof(hot_snapshot),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_dealloc = (destructor)dealloc,
    .tp_members = members,
    .tp_getset = properties,
    .tp_methods = methods,
    .tp_as_mapping = &mapping,
    .tp_as_sequence = &sequence,
};

int hot_snapshot_init(void) {
    name_look_up = PyUnicode_InternFromString("_look_up");
    name_contains = PyUnicode_InternFromString("_contains");
    name_fork = PyUnicode_InternFromString("_fork");
    name_forget_on_close = PyUnicode_InternFromString("forget_on_close");
    return name_look_up && name_contains && name_fork && name_forget_on_close ? 0 : -1;
}
