/* Columns of a declared type that grow row by row, and leave as arrays of the Arrow C data interface. */
#ifndef COLUMNS_H
#define COLUMNS_H

#include "arrow.h"
#include "keys.h"

enum { TEXT = 's', INTEGER = 'i', REAL = 'f', BOOLEAN = 'b', LIST = 'l', OBJECT = 'o' };

/* Rows below `rows` are written; those that are left out are filled with nulls when a later one, or the end, is reached. */
typedef struct column {
    int kind;
    int64_t rows, capacity;
    uint8_t *valid; /* a byte a row, bits at the end */
    union {
        void *any;
        view_t *views;
        int64_t *integers;
        double *reals;
        uint8_t *flags;
        int32_t *offsets;
    } values;
    int64_t nulls;
    uint8_t *text; /* the texts that do not stand in their views */
    int64_t text_bytes, text_capacity;
    struct column *children;
    int32_t count;
    keys_t keys;
} column_t;

/* Makes a zeroed column as the plan says (native.records), with room for so many rows. */
bool column_declare(column_t *column, const uint8_t *plan, int64_t plan_bytes, int64_t rows);

bool column_reserve(column_t *column, int64_t rows);
bool column_fill(column_t *column, int64_t rows);
bool column_grow_text(column_t *column, int64_t more);

/* Fills up to so many rows, and leaves what the arrays take: nothing can be written afterwards. */
bool column_finish(column_t *column, int64_t rows);

/* Moves a finished object's fields to arrays, each of which owns what it has: they may be released at different times. All, or none. */
bool column_hand_over(column_t *object, int64_t rows, struct ArrowArray *arrays);

/* Frees what has not been handed over. */
void column_let_go(column_t *column);

/* Makes room for a row's value; not twice for the same row, which is a key that came twice. */
static inline bool take(column_t *column, int64_t row) {
    if (unlikely(column->rows != row) && (column->rows > row || !column_fill(column, row))) return false;
    if (unlikely(row >= column->capacity) && !column_reserve(column, row + 1)) return false;
    column->rows = row + 1;
    return true;
}

static inline bool text_room(column_t *column, int64_t more) {
    return likely(column->text_capacity - column->text_bytes >= more) || column_grow_text(column, more);
}

#endif
