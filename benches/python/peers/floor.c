/* The least a CPython extension can do for the same job; what the table calls the floor.
 *
 * File:  ranks slots, each: head, then CELLS cells of (sequence, words).
 * Write: version n goes to cell n mod CELLS; sequence 2n-1 while writing, 2n when done, then head = n.
 * Read:  cell of head; accepted only when its sequence was 2*head before and after the copy.
 *
 * It checks little, knows nothing of owners, crashes, ages or schemas, and copies with memcpy, which races by the letter
 * of the C standard: a floor may, a library may not. Needs the GIL.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <descrobject.h>
#include <structmember.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CELLS = 4, MAX_WORDS = 56, RETRIES = 1000 };

typedef union { int64_t q; double d; } Word;

typedef struct {
    PyObject_HEAD
    _Atomic uint64_t *file;
    size_t bytes;
    Py_ssize_t ranks, rank, words, slot_words;
    uint64_t retries;
    PyTypeObject *type;
    Py_ssize_t offset[MAX_WORDS];
    char kind[MAX_WORDS];
} Floor;

typedef struct {
    PyObject_HEAD
    Floor *owner;
    Word words[MAX_WORDS];
} Lazy;

static PyTypeObject FloorType, LazyType;

static _Atomic uint64_t *slot_of(Floor *self, Py_ssize_t rank) { return self->file + rank * self->slot_words; }

static PyObject *boxed(Floor *self, const Word *words, Py_ssize_t i) {
    return self->kind[i] == 'd' ? PyFloat_FromDouble(words[i].d) : PyLong_FromLongLong(words[i].q);
}

/* Copies the newest complete cell; 0, or -1 with an exception when nothing was published or the writer won every race. */
static int copy_newest(Floor *self, Py_ssize_t rank, Word *out) {
    _Atomic uint64_t *slot = slot_of(self, rank);
    for (int attempt = 0; attempt < RETRIES; attempt++) {
        uint64_t head = atomic_load_explicit(slot, memory_order_acquire);
        if (head == 0) break;
        _Atomic uint64_t *cell = slot + 1 + (head % CELLS) * (self->words + 1);
        uint64_t before = atomic_load_explicit(cell, memory_order_acquire);
        memcpy(out, (const void *)(cell + 1), self->words * sizeof(Word));
        atomic_thread_fence(memory_order_acquire);
        uint64_t after = atomic_load_explicit(cell, memory_order_relaxed);
        if (before == 2 * head && after == before) return 0;
        self->retries++;
    }
    PyErr_Format(PyExc_RuntimeError, "rank %zd: nothing published or never at rest", rank);
    return -1;
}

static PyObject *publish(PyObject *object, PyObject *value) {
    Floor *self = (Floor *)object;
    Word staged[MAX_WORDS];
    if (Py_TYPE(value) != self->type) {
        PyErr_SetString(PyExc_TypeError, "publish takes the class given at the start");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < self->words; i++) {
        PyObject *field = *(PyObject **)((char *)value + self->offset[i]);
        if (self->kind[i] == 'd') staged[i].d = PyFloat_AsDouble(field);
        else staged[i].q = PyLong_AsLongLong(field);
        if (staged[i].q == -1 && PyErr_Occurred()) return NULL;
    }
    _Atomic uint64_t *slot = slot_of(self, self->rank);
    uint64_t version = atomic_load_explicit(slot, memory_order_relaxed) + 1;
    _Atomic uint64_t *cell = slot + 1 + (version % CELLS) * (self->words + 1);
    atomic_store_explicit(cell, 2 * version - 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    memcpy((void *)(cell + 1), staged, self->words * sizeof(Word));
    atomic_store_explicit(cell, 2 * version, memory_order_release);
    atomic_store_explicit(slot, version, memory_order_release);
    Py_RETURN_NONE;
}

static Py_ssize_t rank_from(Floor *self, PyObject *number) {
    Py_ssize_t rank = PyLong_AsSsize_t(number);
    if (rank == -1 && PyErr_Occurred()) return -1;
    if (rank < 0 || rank >= self->ranks) {
        PyErr_SetString(PyExc_IndexError, "no such rank");
        return -1;
    }
    return rank;
}

static PyObject *lazy_of(Floor *self, Py_ssize_t rank) {
    Lazy *lazy = PyObject_New(Lazy, &LazyType);
    if (lazy == NULL) return NULL;
    lazy->owner = (Floor *)Py_NewRef(self);
    if (copy_newest(self, rank, lazy->words) < 0) Py_CLEAR(lazy);
    return (PyObject *)lazy;
}

static PyObject *tuple_of(Floor *self, Py_ssize_t rank) {
    Word words[MAX_WORDS];
    if (copy_newest(self, rank, words) < 0) return NULL;
    PyObject *tuple = PyTuple_New(self->words);
    for (Py_ssize_t i = 0; tuple != NULL && i < self->words; i++) {
        PyObject *field = boxed(self, words, i);
        if (field == NULL) Py_CLEAR(tuple);
        else PyTuple_SET_ITEM(tuple, i, field);
    }
    return tuple;
}

static PyObject *list_of(Floor *self, PyObject *(*one)(Floor *, Py_ssize_t)) {
    PyObject *list = PyList_New(self->ranks);
    for (Py_ssize_t rank = 0; list != NULL && rank < self->ranks; rank++) {
        PyObject *item = one(self, rank);
        if (item == NULL) Py_CLEAR(list);
        else PyList_SET_ITEM(list, rank, item);
    }
    return list;
}

static PyObject *read_one(PyObject *self, PyObject *number) {
    Py_ssize_t rank = rank_from((Floor *)self, number);
    return rank < 0 ? NULL : lazy_of((Floor *)self, rank);
}

static PyObject *read_tuple(PyObject *self, PyObject *number) {
    Py_ssize_t rank = rank_from((Floor *)self, number);
    return rank < 0 ? NULL : tuple_of((Floor *)self, rank);
}

static PyObject *read_all(PyObject *self, PyObject *unused) { return list_of((Floor *)self, lazy_of); }

static PyObject *read_tuples(PyObject *self, PyObject *unused) { return list_of((Floor *)self, tuple_of); }

static PyObject *view(PyObject *object, PyObject *unused) {
    Floor *self = (Floor *)object;
    PyObject *all = PyBytes_FromStringAndSize(NULL, self->ranks * self->words * (Py_ssize_t)sizeof(Word));
    for (Py_ssize_t rank = 0; all != NULL && rank < self->ranks; rank++) {
        if (copy_newest(self, rank, (Word *)PyBytes_AS_STRING(all) + rank * self->words) < 0) Py_CLEAR(all);
    }
    return all;
}

/* Asks the kernel for each rank whether somebody holds its lock: what liveness costs at least. */
static PyObject *held(PyObject *unused, PyObject *args) {
    int fd;
    Py_ssize_t ranks;
    long long first;
    if (!PyArg_ParseTuple(args, "inL", &fd, &ranks, &first)) return NULL;
    Py_ssize_t count = 0;
    for (Py_ssize_t rank = 0; rank < ranks; rank++) {
        struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = first + rank, .l_len = 1};
        if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return PyErr_SetFromErrno(PyExc_OSError);
        count += lock.l_type != F_UNLCK;
    }
    return PyLong_FromSsize_t(count);
}

/* Floor(path, ranks, rank, members, kinds): members are the slot descriptors of one class, kinds one of q and d each. */
static int floor_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    Floor *self = (Floor *)object;
    const char *path, *kinds;
    PyObject *members;
    if (!PyArg_ParseTuple(args, "snnO!s", &path, &self->ranks, &self->rank, &PyTuple_Type, &members, &kinds)) return -1;
    self->words = PyTuple_GET_SIZE(members);
    if (self->words < 1 || self->words > MAX_WORDS || (size_t)self->words != strlen(kinds) || self->ranks < 1
        || self->rank < 0 || self->rank >= self->ranks) {
        PyErr_SetString(PyExc_ValueError, "ranks, members and kinds do not fit together");
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->words; i++) {
        PyObject *member = PyTuple_GET_ITEM(members, i);
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type) || ((PyMemberDescrObject *)member)->d_member->type != T_OBJECT_EX) {
            PyErr_SetString(PyExc_TypeError, "members must be slot descriptors");
            return -1;
        }
        self->offset[i] = ((PyMemberDescrObject *)member)->d_member->offset;
        self->kind[i] = kinds[i];
    }
    Py_XSETREF(self->type, (PyTypeObject *)Py_NewRef(PyDescr_TYPE(PyTuple_GET_ITEM(members, 0))));
    self->slot_words = 1 + CELLS * (self->words + 1);
    self->bytes = (size_t)(self->ranks * self->slot_words) * sizeof(Word);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && posix_fallocate(fd, 0, (off_t)self->bytes) == 0) {
        void *mapped = mmap(NULL, self->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        self->file = mapped == MAP_FAILED ? NULL : mapped;
    }
    if (fd >= 0) close(fd);
    if (self->file != NULL) return 0;
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
    return -1;
}

static void floor_free(PyObject *object) {
    Floor *self = (Floor *)object;
    if (self->file != NULL) munmap((void *)self->file, self->bytes);
    Py_XDECREF(self->type);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *lazy_item(PyObject *object, Py_ssize_t i) {
    Lazy *self = (Lazy *)object;
    if (i >= 0 && i < self->owner->words) return boxed(self->owner, self->words, i);
    PyErr_SetString(PyExc_IndexError, "no such field");
    return NULL;
}

static Py_ssize_t lazy_length(PyObject *object) { return ((Lazy *)object)->owner->words; }

static void lazy_free(PyObject *object) {
    Py_DECREF(((Lazy *)object)->owner);
    PyObject_Free(object);
}

static PyMethodDef floor_methods[] = {
    {"publish", publish, METH_O, NULL},
    {"read", read_one, METH_O, NULL},
    {"read_tuple", read_tuple, METH_O, NULL},
    {"read_all", read_all, METH_NOARGS, NULL},
    {"read_tuples", read_tuples, METH_NOARGS, NULL},
    {"view", view, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef floor_members[] = {
    {"retries", T_ULONGLONG, offsetof(Floor, retries), READONLY, NULL},
    {NULL},
};

static PyTypeObject FloorType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "floor.Floor",
    .tp_basicsize = sizeof(Floor),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = floor_init,
    .tp_dealloc = floor_free,
    .tp_methods = floor_methods,
    .tp_members = floor_members,
};

static PySequenceMethods lazy_sequence = {.sq_item = lazy_item, .sq_length = lazy_length};

static PyTypeObject LazyType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "floor.Lazy",
    .tp_basicsize = sizeof(Lazy),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_as_sequence = &lazy_sequence,
    .tp_dealloc = lazy_free,
};

static PyMethodDef functions[] = {{"held", held, METH_VARARGS, NULL}, {NULL}};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "floor", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit_floor(void) {
    PyObject *module = PyType_Ready(&LazyType) < 0 ? NULL : PyModule_Create(&definition);
    if (module != NULL && PyModule_AddType(module, &FloorType) < 0) Py_CLEAR(module);
    return module;
}
