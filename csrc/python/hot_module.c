/* hot_module.c - the module helios_shm._hot and the base types that are nothing but fields. See hot.h. */
#include "hot.h"
#include "../hs_record.h"

hot_bound hot_bound_types;

hs_call *hot_peek_call(PyObject *attachment) {
    PyObject *pool = ((hot_attachment *)attachment)->pool;
    if (pool == NULL || !PyList_CheckExact(pool) || PyList_GET_SIZE(pool) == 0) return NULL;
    PyObject *call = PyList_GET_ITEM(pool, PyList_GET_SIZE(pool) - 1);
    if (!PyObject_TypeCheck(call, &hot_call_type)) return NULL;
    return (hs_call *)(uintptr_t)((hot_call *)call)->address;
}

/* --- fields of a known type --- */

PyObject *hot_field_get(PyObject *self, void *field) {
    const hot_field *of = field;
    PyObject *value = *(PyObject **)((char *)self + of->offset);
    if (value == NULL) PyErr_SetString(PyExc_AttributeError, "a field that was never set");
    return Py_XNewRef(value);
}

int hot_field_set(PyObject *self, PyObject *value, void *field) {
    const hot_field *of = field;
    if (value != NULL && !(of->or_none && value == Py_None) && !PyObject_TypeCheck(value, of->type)) {
        PyErr_Format(PyExc_TypeError, "expected %s, not %s", of->type->tp_name, Py_TYPE(value)->tp_name);
        return -1;
    }
    Py_XSETREF(*(PyObject **)((char *)self + of->offset), Py_XNewRef(value));
    return 0;
}

/* --- what is held --- */

int hot_hold(PyObject *attachment, const uint8_t *root, unsigned long long under, char *leased,
             char *trusted) {
    hs_leases *leases = hot_leases(attachment);
    enum hs_lease_result result = hs_lease_add(leases, root, 1);
    if (result == HS_LEASE_NONE) {
        PyErr_NoMemory();
        return -1;
    }
    *leased = 1;
    *trusted = result == HS_LEASE_TRUSTED || ((under & 1) == 0 && hs_lease_is_under(leases, under));
    return 0;
}

/* --- Attachment --- */

static int attachment_traverse(hot_attachment *self, visitproc visit, void *arg) {
    Py_VISIT(self->pool);
    return 0;
}

static int attachment_clear(hot_attachment *self) {
    Py_CLEAR(self->pool);
    return 0;
}

/* Whoever held a state has gone before: each of them held the attachment as well. */
static void attachment_dealloc(hot_attachment *self) {
    PyObject_GC_UnTrack(self);
    attachment_clear(self);
    hs_leases_close(hot_leases((PyObject *)self));
    Py_TYPE(self)->tp_free(self);
}

static PyObject *attachment_collection(hot_attachment *self, PyObject *Py_UNUSED(none)) {
    hs_leases *leases = hot_leases((PyObject *)self);
    return PyLong_FromUnsignedLongLong(leases == NULL ? HOT_UNSEEN : hs_lease_collection(leases));
}

static PyMethodDef attachment_methods[] = {
    {"_collection", (PyCFunction)(void (*)(void))attachment_collection, METH_NOARGS,
     "_collection($self)\n--\n\n"
     "The collection word, to be given to who holds what was seen after this call; odd while it cannot be known."},
    {0}};

static PyMemberDef attachment_members[] = {
    {"pool", T_OBJECT_EX, offsetof(hot_attachment, pool), 0, "Calls that nobody uses."},
    {"readonly", T_BOOL, offsetof(hot_attachment, readonly), 0, "Was the store opened read-only?"},
    {"_leases", T_ULONGLONG, offsetof(hot_attachment, leases), 0, "Address of the hs_leases, which is ours."},
    {0}};

PyTypeObject hot_attachment_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.AttachmentBase",
    .tp_basicsize = sizeof(hot_attachment),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)attachment_traverse,
    .tp_clear = (inquiry)attachment_clear,
    .tp_dealloc = (destructor)attachment_dealloc,
    .tp_members = attachment_members,
    .tp_methods = attachment_methods,
};

/* --- Call and Branch: the address of a struct that cffi made, whose owner the Python class keeps --- */

static PyMemberDef call_members[] = {
    {"_address", T_ULONGLONG, offsetof(hot_call, address), 0, "Address of the hs_call."}, {0}};

PyTypeObject hot_call_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.CallBase",
    .tp_basicsize = sizeof(hot_call),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_members = call_members,
};

static PyMemberDef branch_members[] = {
    {"_address", T_ULONGLONG, offsetof(hot_branch, address), 0, "Address of the hs_branch_ref."}, {0}};

PyTypeObject hot_branch_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.BranchBase",
    .tp_basicsize = sizeof(hot_branch),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_members = branch_members,
};

/* --- Commit --- */

static int commit_traverse(hot_commit *self, visitproc visit, void *arg) {
    Py_VISIT(self->attachment);
    return 0;
}

/* The state that a commit made, or NULL. */
static const uint8_t *commit_root(const hot_commit *self) {
    if (self->record == NULL || PyBytes_GET_SIZE(self->record) < HS_RECORD_FIXED_SIZE) return NULL;
    return (const uint8_t *)PyBytes_AS_STRING(self->record) + HS_RECORD_BASE_OFFSET;
}

static int commit_clear(hot_commit *self) {
    hot_let_go(self->attachment, commit_root(self), &self->leased);
    Py_CLEAR(self->attachment);
    Py_CLEAR(self->record);
    return 0;
}

static void commit_dealloc(hot_commit *self) {
    PyObject_GC_UnTrack(self);
    commit_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* Read-only: a Commit is frozen. */
static PyMemberDef commit_members[] = {
    {"_attachment", T_OBJECT_EX, offsetof(hot_commit, attachment), READONLY, NULL},
    {"_record", T_OBJECT_EX, offsetof(hot_commit, record), READONLY, NULL},
    {"_trusted", T_BOOL, offsetof(hot_commit, trusted), READONLY, NULL},
    {0}};

PyTypeObject hot_commit_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.CommitBase",
    .tp_basicsize = sizeof(hot_commit),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)commit_traverse,
    .tp_clear = (inquiry)commit_clear,
    .tp_dealloc = (destructor)commit_dealloc,
    .tp_members = commit_members,
};

static hot_commit *commit_alloc(PyObject *record, PyObject *attachment) {
    PyTypeObject *type = hot_bound_types.commit;
    hot_commit *commit = (hot_commit *)type->tp_alloc(type, 0);
    if (commit == NULL) return NULL;
    commit->record = Py_NewRef(record);
    commit->attachment = Py_NewRef(attachment);
    return commit;
}

PyObject *hot_commit_make(PyObject *record, PyObject *attachment, unsigned long long under) {
    hot_commit *commit = commit_alloc(record, attachment);
    const uint8_t *root = commit == NULL ? NULL : commit_root(commit);
    if (root != NULL && hot_hold(attachment, root, under, &commit->leased, &commit->trusted) < 0)
        Py_CLEAR(commit);
    return (PyObject *)commit;
}

PyObject *hot_commit_give(PyObject *record, PyObject *attachment) {
    hot_commit *commit = commit_alloc(record, attachment);
    if (commit == NULL)
        hs_lease_drop(hot_leases(attachment),
                      (const uint8_t *)PyBytes_AS_STRING(record) + HS_RECORD_BASE_OFFSET, 1);
    else
        commit->leased = commit->trusted = 1;
    return (PyObject *)commit;
}

/* --- the module --- */

/* The last of the arguments, if it was given. False with an exception. */
static bool under_of(PyObject *const *args, Py_ssize_t count, unsigned long long *under) {
    *under = HOT_UNSEEN;
    if (count == 3) *under = PyLong_AsUnsignedLongLong(args[2]);
    return !(count == 3 && PyErr_Occurred());
}

/* May an object be made that stands on this attachment? */
static bool may_make(PyObject *attachment, const char *what) {
    if (!PyObject_TypeCheck(attachment, &hot_attachment_type)) {
        PyErr_Format(PyExc_TypeError, "a %s is of an attachment", what);
        return false;
    }
    if (hot_bound_types.commit == NULL) PyErr_SetString(PyExc_RuntimeError, "bind comes first");
    return hot_bound_types.commit != NULL;
}

static PyObject *make_commit(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    unsigned long long under;
    if (count < 2 || count > 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "make_commit(record: bytes, attachment, under: int = 1)");
        return NULL;
    }
    if (!may_make(args[1], "commit") || !under_of(args, count, &under)) return NULL;
    return hot_commit_make(args[0], args[1], under);
}

static PyObject *commit_of_call(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 3 || !PyBytes_Check(args[0]) || !PyObject_TypeCheck(args[2], &hot_call_type)) {
        PyErr_SetString(PyExc_TypeError, "commit_of_call(record: bytes, attachment, call)");
        return NULL;
    }
    if (!may_make(args[1], "commit")) return NULL;
    hs_call *call = (hs_call *)(uintptr_t)((hot_call *)args[2])->address;
    if (call->held == 0) return hot_commit_make(args[0], args[1], HOT_UNSEEN);
    call->held--;
    PyObject *commit = hot_commit_give(args[0], args[1]);
    hs_call_let_go(call);
    return commit;
}

static PyObject *make_snapshot(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    unsigned long long under;
    if (count < 2 || count > 3 || !PyBytes_Check(args[1]) || PyBytes_GET_SIZE(args[1]) != 32) {
        PyErr_SetString(PyExc_TypeError, "make_snapshot(attachment, root: 32 bytes, under: int = 1)");
        return NULL;
    }
    if (!may_make(args[0], "snapshot") || !under_of(args, count, &under)) return NULL;
    return hot_snapshot_make(args[0], args[1], under);
}

static PyObject *bind(PyObject *Py_UNUSED(module), PyObject *args, PyObject *named) {
    static char *names[] = {"commit",        "snapshot",       "workspace", "large",
                            "read_size_max", "read_count_max", NULL};
    hot_bound bound;
    if (!PyArg_ParseTupleAndKeywords(args, named, "$O!O!O!nnn:bind", names, &PyType_Type, &bound.commit,
                                     &PyType_Type, &bound.snapshot, &PyType_Type, &bound.workspace,
                                     &bound.large, &bound.read_size_max, &bound.read_count_max))
        return NULL;
    if (!PyType_IsSubtype(bound.commit, &hot_commit_type) ||
        !PyType_IsSubtype(bound.snapshot, &hot_snapshot_type) ||
        !PyType_IsSubtype(bound.workspace, &hot_workspace_type)) {
        PyErr_SetString(PyExc_TypeError, "commit is a subclass of CommitBase, snapshot of SnapshotBase, "
                                         "workspace of WorkspaceBase");
        return NULL;
    }
    Py_INCREF(bound.commit);
    Py_INCREF(bound.snapshot);
    Py_INCREF(bound.workspace);
    hot_bound before = hot_bound_types;
    hot_bound_types = bound;
    Py_XDECREF(before.commit);
    Py_XDECREF(before.snapshot);
    Py_XDECREF(before.workspace);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"bind", (PyCFunction)(void (*)(void))bind, METH_VARARGS | METH_KEYWORDS,
     "bind(*, commit, snapshot, workspace, large, read_size_max, read_count_max)\n--\n\nTell the module what the Python classes above it are."},
    {"make_commit", (PyCFunction)(void (*)(void))make_commit, METH_FASTCALL,
     "make_commit(record, attachment, under=1, /)\n--\n\n"
     "The Commit that a record's bytes describe. ``under``: the collection word from before its state was seen to be there."},
    {"commit_of_call", (PyCFunction)(void (*)(void))commit_of_call, METH_FASTCALL,
     "commit_of_call(record, attachment, call, /)\n--\n\n"
     "The Commit that a call has just made, with the lease that the call holds of its state."},
    {"make_snapshot", (PyCFunction)(void (*)(void))make_snapshot, METH_FASTCALL,
     "make_snapshot(attachment, root, under=1, /)\n--\n\n"
     "The Snapshot of a root id; not looked up. ``under``: as in make_commit."},
    {"files_list", hot_files_list, METH_VARARGS,
     "files_list(root, paths, workers, /)\n--\n\nWhat is in directories."},
    {"files_read", hot_files_read, METH_VARARGS,
     "files_read(root, jobs, workers, /)\n--\n\nRead and hash files."},
    {"files_write", hot_files_write, METH_VARARGS,
     "files_write(root, jobs, workers, /)\n--\n\nMake and remove files."},
    {"files_same", hot_files_same, METH_VARARGS,
     "files_same(root, rows, names, checked, workers, /)\n--\n\nAre the checked rows of an index true?"},
    {"files_directory", hot_files_directory, METH_VARARGS,
     "files_directory(root, path, /)\n--\n\nOpen a directory beneath another: a descriptor, or -errno."},
    {0}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "helios_shm._hot",
    .m_doc = "Base types of the public classes, with the methods that are called most often.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__hot(void) {
    static const struct {
        const char *name;
        PyTypeObject *type;
    } types[] = {{"AttachmentBase", &hot_attachment_type},
                 {"CallBase", &hot_call_type},
                 {"BranchBase", &hot_branch_type},
                 {"SnapshotBase", &hot_snapshot_type},
                 {"CommitBase", &hot_commit_type},
                 {"WorkspaceBase", &hot_workspace_type},
                 {"Scan", &hot_scan_type},
                 {"L1Base", &hot_l1_type},
                 {"Edits", &hot_edits_type}};
    if (hot_workspace_init() < 0 || hot_snapshot_init() < 0 || hot_scan_init() < 0 || hot_l1_init() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    for (size_t i = 0; module != NULL && i < sizeof types / sizeof *types; i++) {
        if (PyType_Ready(types[i].type) == 0 &&
            PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) == 0)
            continue;
        Py_CLEAR(module);
    }
    return module;
}
