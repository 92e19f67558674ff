/* hot_edits.c - Edits: the edits of a workspace as hs_commit_many takes them, made of a dict without copying a key or a value.
 *
 *   objects  | str str str ... | bytes bytes bytes ... |     held until the commit has ended
 *               |                  |
 *   key_at   | * | * | * | ...  value_at | * | * | * | ...   key_sizes, value_sizes, forms
 *
 * An edit that is no small bytes is turned into {form, bytes} by Python (workspace._form), which may run anything: so the dict's
 * objects are taken first, in one go. */
#include "hot.h"

typedef struct hot_edits {
    PyObject_HEAD PyObject **objects; /* first of the one block of memory */
    Py_ssize_t count;
    unsigned long long address; /* of `edits`, for cffi */
    hs_edits edits;
} hot_edits;

static void dealloc(hot_edits *self) {
    for (Py_ssize_t i = 0; self->objects != NULL && i < 2 * self->count; i++) Py_XDECREF(self->objects[i]);
    PyMem_Free(self->objects);
    Py_TYPE(self)->tp_free(self);
}

/* One block for all arrays, those of pointers first. */
static int make_room(hot_edits *self, Py_ssize_t count, const uint8_t ***key_at, const uint8_t ***value_at,
                     uint32_t **sizes, uint8_t **forms) {
    size_t n = (size_t)count;
    self->objects = PyMem_Malloc(n * (4 * sizeof(void *) + 2 * sizeof(uint32_t) + 1) + 1);
    if (self->objects == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *key_at = (const uint8_t **)(self->objects + 2 * n);
    *value_at = *key_at + n;
    *sizes = (uint32_t *)(*value_at + n);
    *forms = (uint8_t *)(*sizes + 2 * n);
    self->edits = (hs_edits){.count = (uint32_t)n,
                             .key_at = *key_at,
                             .key_sizes = *sizes,
                             .value_at = *value_at,
                             .value_sizes = *sizes + n};
    return 0;
}

/* Take the dict's keys and values. Nothing here runs Python code. */
static void take(hot_edits *self, PyObject *dict) {
    PyObject *path, *value;
    for (Py_ssize_t at = 0, i = 0; PyDict_Next(dict, &at, &path, &value); i++) {
        self->objects[self->count + i] = Py_NewRef(value);
        self->objects[i] = Py_NewRef(path);
    }
}

/* Replace an edit by the bytes that stand for it. */
static int form_of(PyObject *function, PyObject **value, uint8_t *form) {
    PyObject *made = PyObject_CallOneArg(function, *value);
    if (made == NULL) return -1;
    int number;
    PyObject *bytes;
    if (!PyTuple_Check(made) || !PyArg_ParseTuple(made, "iS;a form is (int, bytes)", &number, &bytes)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a form is (int, bytes)");
        Py_DECREF(made);
        return -1;
    }
    *form = (uint8_t)number;
    Py_SETREF(*value, Py_NewRef(bytes));
    Py_DECREF(made);
    return 0;
}

static int fill(hot_edits *self, PyObject *dict, PyObject *function) {
    const uint8_t **key_at, **value_at;
    uint32_t *sizes;
    uint8_t *forms;
    Py_ssize_t n = PyDict_GET_SIZE(dict);
    if ((size_t)n > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "too many edits for one commit");
        return -1;
    }
    if (make_room(self, n, &key_at, &value_at, &sizes, &forms) < 0) return -1;
    self->count = n;
    take(self, dict);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject **value = self->objects + n + i;
        Py_ssize_t size;
        forms[i] = 0;
        if (!PyBytes_CheckExact(*value) || PyBytes_GET_SIZE(*value) >= hot_bound_types.large) {
            if (form_of(function, value, forms + i) < 0) return -1;
            self->edits.forms = forms;
        }
        if (PyBytes_GET_SIZE(*value) > UINT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a value as it is stored is smaller than 4 GiB");
            return -1;
        }
        value_at[i] = (const uint8_t *)PyBytes_AS_STRING(*value);
        sizes[n + i] = (uint32_t)PyBytes_GET_SIZE(*value);
        key_at[i] = (const uint8_t *)PyUnicode_AsUTF8AndSize(self->objects[i], &size);
        if (key_at[i] == NULL) return -1;
        sizes[i] = (uint32_t)size; /* the core refuses keys above 1024 bytes */
    }
    return 0;
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *named) {
    static char *names[] = {"", "", NULL};
    PyObject *dict, *function;
    if (!PyArg_ParseTupleAndKeywords(args, named, "O!O:Edits", names, &PyDict_Type, &dict, &function))
        return NULL;
    hot_edits *self = (hot_edits *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->address = (unsigned long long)(uintptr_t)&self->edits;
    if (fill(self, dict, function) == 0) return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static PyMemberDef members[] = {
    {"address", T_ULONGLONG, offsetof(hot_edits, address), READONLY, "Address of the hs_edits."}, {0}};

PyTypeObject hot_edits_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "helios_shm._hot.Edits",
    .tp_doc = "Edits(edits, form, /)\n--\n\nThe edits of a workspace as the core takes them.",
    .tp_basicsize = sizeof(hot_edits),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = make,
    .tp_dealloc = (destructor)dealloc,
    .tp_members = members,
};
