// Tokens that sample_gather puts together for sample_filter: those of one bin of a row, if they are not more than GATHERED.

import package::lib::bins::BINS;

const GATHERED = min(N, 16384u);

// Words of a row's bins: how many, and one more than which bin, 0 for none.
const GATHERED_COUNT = 3u * BINS;
const GATHERED_BIN = GATHERED_COUNT + 1u;
