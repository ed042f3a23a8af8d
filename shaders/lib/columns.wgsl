// Columns of sequences: LIST_WORDS words of lists (pairs of an id and its bias, ids that XTC spares, ids that may not
// come yet, one list after the other), then a ring of the newest RING tokens, then a mask: a bit an id that may come next.

const LIST_WORDS = 1024u;

fn lists_at(sequence: u32) -> u32 { return sequence * (LIST_WORDS + RING + (N + 31u) / 32u); }

// Where the token of a position lies.
fn history_at(sequence: u32, position: u32) -> u32 { return lists_at(sequence) + LIST_WORDS + position % RING; }

// Where the word of the mask lies that has an id's bit, id % 32.
fn mask_at(sequence: u32, id: u32) -> u32 { return lists_at(sequence) + LIST_WORDS + RING + id / 32u; }
