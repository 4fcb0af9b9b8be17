#include "columns.h"

enum {
    LEVELS = 64,   /* of a declaration */
    FIELDS = 8192, /* of an object's */
};

static size_t width(int kind) {
    switch (kind) {
    case TEXT: return sizeof(view_t);
    case INTEGER: return sizeof(int64_t);
    case REAL: return sizeof(double);
    case BOOLEAN: return 1;
    case LIST: return sizeof(int32_t);
    default: return 0;
    }
}

bool column_reserve(column_t *column, int64_t rows) {
    if (likely(rows <= column->capacity)) return true;
    if (rows > INT32_MAX) return false;
    int64_t capacity = column->capacity ? 2 * column->capacity : 64;
    if (capacity < rows) capacity = rows;
    void *valid = column->valid;
    /* Whole words, which are packed eight rows at once. */
    if (!resize(&valid, (size_t)capacity + 8)) return false;
    column->valid = valid;
    if (width(column->kind) && !resize(&column->values.any, ((size_t)capacity + 8) * width(column->kind))) return false;
    if (column->kind == LIST && !column->capacity) column->values.offsets[0] = 0;
    column->capacity = capacity;
    return true;
}

bool column_fill(column_t *column, int64_t rows) {
    if (column->rows >= rows) return true;
    if (!column_reserve(column, rows)) return false;
    size_t from = (size_t)column->rows, count = (size_t)(rows - column->rows);
    memset(column->valid + from, 0, count);
    if (column->kind == LIST)
        for (int64_t row = column->rows; row < rows; row++)
            column->values.offsets[row + 1] = column->values.offsets[row];
    else if (width(column->kind))
        memset((uint8_t *)column->values.any + from * width(column->kind), 0, count * width(column->kind));
    column->rows = rows;
    return true;
}

bool column_grow_text(column_t *column, int64_t more) {
    int64_t needed = column->text_bytes + more;
    if (needed > INT32_MAX) return false;
    int64_t capacity = column->text_capacity * 2 > needed ? column->text_capacity * 2 : needed + 4096;
    void *text = column->text;
    if (!resize(&text, (size_t)capacity)) return false;
    column->text = text;
    column->text_capacity = capacity;
    return true;
}

void column_let_go(column_t *column) {
    free(column->valid);
    free(column->values.any);
    free(column->text);
    free(column->keys.known);
    free(column->keys.slots);
    for (int32_t child = 0; child < column->count; child++) column_let_go(&column->children[child]);
    free(column->children);
    memset(column, 0, sizeof *column);
}

typedef struct {
    const uint8_t *p, *end;
} plan_t;

static bool plan_number(plan_t *plan, uint32_t *to) {
    if (plan->end - plan->p < 4) return false;
    memcpy(to, plan->p, 4);
    plan->p += 4;
    return true;
}

static bool declare(column_t *column, plan_t *plan, int64_t rows, int levels);

static bool declare_fields(column_t *column, plan_t *plan, int64_t rows, int levels) {
    uint32_t fields, length;
    if (!plan_number(plan, &fields) || fields > FIELDS || !make_keys(&column->keys, fields)) return false;
    column->children = calloc(fields + 1, sizeof(column_t));
    if (!column->children) return false;
    column->count = (int32_t)fields;
    for (uint32_t field = 0; field < fields; field++) {
        if (!plan_number(plan, &length) || (size_t)(plan->end - plan->p) < length) return false;
        if (!look_up(&column->keys, plan->p, length, (int32_t)field)) return false;
        plan->p += length;
        if (!declare(&column->children[field], plan, rows, levels - 1)) return false;
    }
    /* Two fields of one name. */
    return column->keys.count == fields + 1;
}

static bool declare(column_t *column, plan_t *plan, int64_t rows, int levels) {
    if (!levels || plan->p >= plan->end) return false;
    column->kind = *plan->p++;
    if (!column_reserve(column, rows)) return false;
    switch (column->kind) {
    case TEXT: case INTEGER: case REAL: case BOOLEAN: return true;
    case LIST:
        column->children = calloc(1, sizeof(column_t));
        if (!column->children) return false;
        column->count = 1;
        return declare(column->children, plan, 1, levels - 1);
    case OBJECT: return declare_fields(column, plan, rows, levels);
    default: return false;
    }
}

bool column_declare(column_t *column, const uint8_t *plan, int64_t plan_bytes, int64_t rows) {
    plan_t declared = {plan, plan + plan_bytes};
    return declare(column, &declared, rows, LEVELS) && declared.p == declared.end;
}

/* Bytes that are 0 or 1 to bits, in their own memory; how many are 1. */
static int64_t pack(uint8_t *bytes, int64_t rows) {
    int64_t ones = 0;
    memset(bytes + rows, 0, 8);
    for (int64_t byte = 0; byte < (rows + 7) / 8; byte++) {
        uint64_t eight;
        memcpy(&eight, bytes + 8 * byte, 8);
        ones += (int64_t)(eight * 0x0101010101010101 >> 56);
        /* Each byte's bit to its place in the highest byte. */
        bytes[byte] = (uint8_t)(eight * 0x0102040810204080 >> 56);
    }
    return ones;
}

static void shrink(void **at, size_t size) {
    if (*at) (void)resize(at, size);
}

bool column_finish(column_t *column, int64_t rows) {
    if (!column_reserve(column, rows ? rows : 1) || !column_fill(column, rows)) return false;
    column->nulls = rows - pack(column->valid, rows);
    if (column->kind == BOOLEAN) (void)pack(column->values.flags, rows);
    void *valid = column->valid, *text = column->text;
    shrink(&valid, (size_t)(rows + 7) / 8);
    shrink(&text, (size_t)column->text_bytes);
    column->valid = valid;
    column->text = text;
    size_t items = column->kind == BOOLEAN ? (size_t)(rows + 7) / 8 : (size_t)rows + (column->kind == LIST);
    shrink(&column->values.any, items * width(column->kind));
    int64_t below = column->kind == LIST ? column->values.offsets[rows] : rows;
    for (int32_t child = 0; child < column->count; child++)
        if (!column_finish(&column->children[child], below)) return false;
    return true;
}

/* What an array owns: its buffers, and the structs of its children, which may have been moved away. */
typedef struct {
    void *owned[3];
    const void *buffers[4];
    int64_t text_bytes;
    struct ArrowArray *arrays;
    struct ArrowArray *children[];
} owner_t;

static void release(struct ArrowArray *array) {
    owner_t *owner = array->private_data;
    for (int64_t child = 0; child < array->n_children; child++)
        if (owner->arrays[child].release) owner->arrays[child].release(&owner->arrays[child]);
    for (int buffer = 0; buffer < 3; buffer++) free(owner->owned[buffer]);
    free(owner->arrays);
    free(owner);
    array->release = NULL;
}

static int64_t buffers(column_t *column, owner_t *owner) {
    owner->owned[0] = column->valid;
    owner->owned[1] = column->values.any;
    owner->owned[2] = column->text;
    owner->text_bytes = column->text_bytes;
    owner->buffers[0] = column->nulls ? column->valid : NULL;
    owner->buffers[1] = column->values.any;
    column->valid = column->text = NULL;
    column->values.any = NULL;
    if (column->kind == OBJECT) return 1;
    if (column->kind != TEXT) return 2;
    /* After the data buffers comes one with their sizes. */
    int64_t count = 2;
    if (owner->text_bytes) owner->buffers[count++] = owner->owned[2];
    owner->buffers[count++] = &owner->text_bytes;
    return count;
}

static bool hand_over(column_t *column, int64_t rows, struct ArrowArray *array) {
    size_t count = (size_t)column->count;
    owner_t *owner = calloc(1, sizeof *owner + count * sizeof(struct ArrowArray *));
    struct ArrowArray *arrays = calloc(count + 1, sizeof *arrays);
    if (!owner || !arrays) {
        free(owner);
        free(arrays);
        return false;
    }
    owner->arrays = arrays;
    int64_t below = column->kind == LIST ? column->values.offsets[rows] : rows;
    int64_t n_buffers = buffers(column, owner);
    *array = (struct ArrowArray){
        .length = rows,
        .null_count = column->nulls,
        .n_buffers = n_buffers,
        .n_children = column->count,
        .buffers = owner->buffers,
        .children = owner->children,
        .release = release,
        .private_data = owner,
    };
    for (size_t child = 0; child < count; child++) {
        owner->children[child] = &arrays[child];
        if (!hand_over(&column->children[child], below, &arrays[child])) {
            release(array);
            return false;
        }
    }
    return true;
}

bool column_hand_over(column_t *object, int64_t rows, struct ArrowArray *arrays) {
    for (int32_t field = 0; field < object->count; field++)
        if (!hand_over(&object->children[field], rows, &arrays[field])) {
            while (field--) release(&arrays[field]);
            return false;
        }
    return true;
}
