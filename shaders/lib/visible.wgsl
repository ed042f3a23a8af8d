// Which tokens a query sees.

fn sees(position: u32, token: u32) -> bool {
    return token <= position && (WINDOW == 0u || token < KEEP || token + WINDOW > position);
}

// The first token, from KEEP on, that a query at `position` sees.
fn window_begin(position: u32) -> u32 { return select(0u, position + 1u - min(position + 1u, WINDOW), WINDOW > 0u); }
