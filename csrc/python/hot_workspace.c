/* hot_workspace.c - WorkspaceBase: setting a plain value, reading it back, and committing one of them. See hot.h.
 *
 *   workspace[path] = value     exact str and bytes, ASCII            else  put(path, value), which checks and says what is wrong
 *   workspace[path]             an edit that is bytes; else of the base snapshot     else  _lookup(path)
 *   workspace.commit()          one edit, small bytes; no arguments                  else  _commit(...)
 */
#include "hot.h"
#include "../hs_engine.h"
#include "../hs_blake3.h"
#include "../hs_record.h"

#define PATH_SIZE_MAX  1024
#define VALUE_SIZE_MAX UINT32_MAX

static PyObject *name_put, *name_remove, *name_lookup, *name_commit, *name_finish, *empty_text;

/* --- fields --- */

static int traverse(hot_workspace *self, visitproc visit, void *arg) {
    Py_VISIT(self->attachment);
    Py_VISIT(self->branch);
    Py_VISIT(self->base_snapshot);
    Py_VISIT(self->edits);
    return 0;
}

static int clear(hot_workspace *self) {
    hot_let_go(self->attachment, self->base, &self->leased);
    self->trusted = 0;
    Py_CLEAR(self->attachment);
    Py_CLEAR(self->branch);
    Py_CLEAR(self->base_snapshot);
    Py_CLEAR(self->edits);
    return 0;
}

static void dealloc(hot_workspace *self) {
    PyObject_GC_UnTrack(self);
    clear(self);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *base_get(hot_workspace *self, void *Py_UNUSED(closure)) {
    return PyBytes_FromStringAndSize((const char *)self->base, self->base_size);
}

static int base_set(hot_workspace *self, PyObject *value, void *Py_UNUSED(closure)) {
    if (value == NULL || !PyBytes_Check(value) || PyBytes_GET_SIZE(value) > HOT_BASE_SIZE_MAX) {
        PyErr_SetString(PyExc_TypeError, "a base is 32 bytes, or 40");
        return -1;
    }
    char leased = 0, trusted = 0;
    const uint8_t *base = (const uint8_t *)PyBytes_AS_STRING(value);
    if (PyBytes_GET_SIZE(value) >= HS_HASH_SIZE) {
        if (self->attachment == NULL) {
            PyErr_SetString(PyExc_TypeError, "a base is of an attachment, which comes first");
            return -1;
        }
        if (hot_hold(self->attachment, base, HOT_UNSEEN, &leased, &trusted) < 0) return -1;
    }
    hot_let_go(self->attachment, self->base, &self->leased);
    self->leased = leased;
    self->trusted = trusted;
    self->base_size = (uint8_t)PyBytes_GET_SIZE(value);
    memcpy(self->base, base, self->base_size);
    return 0;
}

static PyObject *base_snapshot_get(hot_workspace *self, void *Py_UNUSED(closure)) {
    if (self->base_snapshot == NULL) PyErr_SetString(PyExc_AttributeError, "a field that was never set");
    return Py_XNewRef(self->base_snapshot);
}

/* The snapshot that goes may be all that holds the base. */
static int base_snapshot_set(hot_workspace *self, PyObject *value, void *Py_UNUSED(closure)) {
    char trusted = 0;
    if (self->base_size >= HS_HASH_SIZE && !self->leased && self->attachment != NULL &&
        hot_hold(self->attachment, self->base, HOT_UNSEEN, &self->leased, &trusted) < 0)
        return -1;
    Py_XSETREF(self->base_snapshot, Py_XNewRef(value));
    return 0;
}

static int attachment_set(hot_workspace *self, PyObject *value, void *field) {
    if (!self->leased) return hot_field_set((PyObject *)self, value, field);
    PyErr_SetString(PyExc_TypeError, "a workspace that stands on a state keeps its attachment");
    return -1;
}

/* --- one value --- */

static int set_item(hot_workspace *self, PyObject *path, PyObject *value) {
    PyObject *done;
    if (value == NULL) {
        done = PyObject_CallMethodOneArg((PyObject *)self, name_remove, path);
    } else if (PyBytes_CheckExact(value) && PyUnicode_CheckExact(path) && PyUnicode_IS_ASCII(path) &&
               PyUnicode_GET_LENGTH(path) > 0 && PyUnicode_GET_LENGTH(path) <= PATH_SIZE_MAX &&
               PyBytes_GET_SIZE(value) <= VALUE_SIZE_MAX && self->edits != NULL) {
        return PyDict_SetItem(self->edits, path, value);
    } else {
        done = PyObject_CallMethodObjArgs((PyObject *)self, name_put, path, value, NULL);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *get_item(hot_workspace *self, PyObject *path) {
    if (PyUnicode_CheckExact(path) && self->edits != NULL) {
        PyObject *edit = PyDict_GetItemWithError(self->edits, path);
        if (edit != NULL && PyBytes_CheckExact(edit)) return Py_NewRef(edit);
        if (edit == NULL && PyErr_Occurred()) return NULL;
        if (edit == NULL && self->base_snapshot != NULL && self->base_snapshot != Py_None)
            return PyObject_GetItem(self->base_snapshot, path);
    }
    return PyObject_CallMethodOneArg((PyObject *)self, name_lookup, path);
}

/* --- committing --- */

/* The only edit, if it is of the frequent kind. */
static bool only_edit(hot_workspace *self, PyObject **path, PyObject **value) {
    Py_ssize_t at = 0;
    return self->attachment != NULL && self->branch != NULL && self->edits != NULL &&
           PyDict_CheckExact(self->edits) && PyDict_GET_SIZE(self->edits) == 1 &&
           PyDict_Next(self->edits, &at, path, value) && PyBytes_CheckExact(*value) &&
           PyBytes_GET_SIZE(*value) < hot_bound_types.large && PyUnicode_CheckExact(*path);
}

static hs_branch_ref *branch_ref(hot_workspace *self) {
    if (self->branch == Py_None) return NULL;
    return (hs_branch_ref *)(uintptr_t)((hot_branch *)self->branch)->address;
}

/* The commit has happened, and the workspace stands on it now. The call is not looked at after the first thing that may run
 * Python code (a weak reference's callback, the collector), which might close the engine. */
static PyObject *committed(hot_workspace *self, hs_call *call, Py_ssize_t size) {
    PyObject *record = PyBytes_FromStringAndSize((const char *)call->data, size);
    bool held = call->held == 2; /* one lease for the workspace, one for the commit */
    call->held = held ? (record == NULL) : call->held;
    hot_let_go(self->attachment, self->base, &self->leased);
    memcpy(self->base, call->data + HS_RECORD_BASE_OFFSET, self->base_size);
    self->leased = self->trusted = held;
    if (record == NULL) hs_call_let_go(call);
    PyDict_Clear(self->edits);
    Py_XSETREF(self->base_snapshot, Py_NewRef(Py_None));
    if (record == NULL) return NULL;
    PyObject *commit = held ? hot_commit_give(record, self->attachment)
                            : hot_commit_make(record, self->attachment, HOT_UNSEEN);
    Py_DECREF(record);
    return commit;
}

/* A commit that wants something, or came to nothing: Python sees it through. The call leaves the pool for that time. The
 * core may still look at path and value, which another thread may take out of the edits. */
static PyObject *finish(hot_workspace *self, int64_t result, PyObject *path, PyObject *value) {
    PyObject *pool = ((hot_attachment *)self->attachment)->pool;
    Py_ssize_t last = PyList_GET_SIZE(pool) - 1;
    PyObject *call = Py_NewRef(PyList_GET_ITEM(pool, last)), *commit = NULL;
    PyObject *number = PyLong_FromLongLong(result);
    Py_INCREF(path);
    Py_INCREF(value);
    if (number != NULL && PyList_SetSlice(pool, last, last + 1, NULL) == 0)
        commit = PyObject_CallMethodObjArgs((PyObject *)self, name_finish, call, number, empty_text, Py_False,
                                            NULL);
    else
        hs_commit_cancel((hs_call *)(uintptr_t)((hot_call *)call)->address);
    Py_DECREF(path);
    Py_DECREF(value);
    Py_XDECREF(number);
    Py_DECREF(call);
    return commit;
}

static PyObject *commit(hot_workspace *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *path, *value;
    hs_call *call;
    if (count == 0 && names == NULL && self->trusted && only_edit(self, &path, &value) &&
        !((hot_attachment *)self->attachment)->readonly && (call = hot_peek_call(self->attachment)) != NULL) {
        Py_ssize_t path_size;
        const char *key = PyUnicode_AsUTF8AndSize(path, &path_size);
        if (key == NULL) return NULL;
        if (hs_engine_try_lock(call->engine)) {
            int64_t result = hs_commit_one_locked(
                call, branch_ref(self), self->base, (const uint8_t *)key, (size_t)path_size,
                (const uint8_t *)PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
            hs_engine_unlock(call->engine);
            if (0 < result && result < HS_LOOK_AFTER) return committed(self, call, (Py_ssize_t)result);
            return finish(self, result, path, value);
        }
    }
    PyObject *method = PyObject_GetAttr((PyObject *)self, name_commit);
    if (method == NULL) return NULL;
    PyObject *made = PyObject_Vectorcall(method, args, (size_t)count, names);
    Py_DECREF(method);
    return made;
}

/* --- the type --- */

static PyMemberDef members[] = {{"_trusted", T_BOOL, offsetof(hot_workspace, trusted), 0, NULL},
                                {"_edits", T_OBJECT_EX, offsetof(hot_workspace, edits), 0, NULL},
                                {0}};

static const hot_field attachment_field = {offsetof(hot_workspace, attachment), &hot_attachment_type, false};
static const hot_field branch_field = {offsetof(hot_workspace, branch), &hot_branch_type, true};

static PyGetSetDef properties[] = {
    {"_attachment", hot_field_get, (setter)attachment_set, NULL, (void *)&attachment_field},
    {"_base_snapshot", (getter)base_snapshot_get, (setter)base_snapshot_set, NULL, NULL},
    {"_branch", hot_field_get, hot_field_set, NULL, (void *)&branch_field},
    {"_base", (getter)base_get, (setter)base_set, NULL, NULL},
    {0}};

static PyMappingMethods mapping = {.mp_subscript = (binaryfunc)get_item,
                                   .mp_ass_subscript = (objobjargproc)set_item};

static PyObject *trust_under(hot_workspace *self, PyObject *word) {
    unsigned long long under = PyLong_AsUnsignedLongLong(word);
    if (PyErr_Occurred()) return NULL;
    if (self->leased && !self->trusted && (under & 1) == 0)
        self->trusted = hs_lease_is_under(hot_leases(self->attachment), under);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"_trust_under", (PyCFunction)(void (*)(void))trust_under, METH_O,
     "_trust_under($self, word, /)\n--\n\nThe base was seen to be there after the collection word was this one."},
    {"commit", (PyCFunction)(void (*)(void))commit, METH_FASTCALL | METH_KEYWORDS,
     "commit($self, message='', *, metadata=None, durable=False, rebase=True, resolve=None)\n--\n\n"
     "Make the edits a new immutable snapshot; on a branch, move its head to it.\n\n"
     "When it returns, every process sees the commit, and it survives the death of any processes; with\n"
     "``durable``, power loss as well. If the head moved meanwhile, edits to keys that nobody else touched are\n"
     "rebased onto it (not with ``rebase=False``); of a key that somebody else did, ``resolve`` decides: as in\n"
     "``Snapshot.merge``, with the edits as ours and the head as theirs, for equal changes too, and anew for each\n"
     "head that gets in between. With nothing to commit and neither message nor metadata, the branch's last commit\n"
     "is returned.\n\n"
     "Raises ConflictError (keys among the edits differ between base and head), NotFoundError (the branch was\n"
     "deleted), CapacityError, BusyError, ReadOnlyError, ClosedError: nothing moved then, and the edits are as\n"
     "before; except for BusyError with ``.commit`` set: the commit happened, and only its durability is late.\n"
     "Cost: one C call, no system call; microseconds."},
    {0}};

PyTypeObject hot_workspace_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.WorkspaceBase",
    .tp_basicsize = sizeof(hot_workspace),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)traverse,
    .tp_clear = (inquiry)clear,
    .tp_dealloc = (destructor)dealloc,
    .tp_members = members,
    .tp_getset = properties,
    .tp_methods = methods,
    .tp_as_mapping = &mapping,
};

int hot_workspace_init(void) {
    name_put = PyUnicode_InternFromString("put");
    name_remove = PyUnicode_InternFromString("_remove");
    name_lookup = PyUnicode_InternFromString("_lookup");
    name_commit = PyUnicode_InternFromString("_commit");
    name_finish = PyUnicode_InternFromString("_finish");
    empty_text = PyUnicode_InternFromString("");
    return name_put && name_remove && name_lookup && name_commit && name_finish && empty_text ? 0 : -1;
}
