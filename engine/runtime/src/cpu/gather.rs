//! Template gather_rows.

/// out\[r\] = x\[rows\[r\]\], rows of `n_cols` values.
///
/// # Panics
/// If a row lies outside its slice.
pub fn gather_rows(x: &[f32], rows: &[u32], n_cols: usize, out: &mut [f32]) {
    if n_cols == 0 {
        return;
    }
    let out = &mut out[..rows.len() * n_cols];
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(n_cols)) {
        out.copy_from_slice(&x[row as usize * n_cols..][..n_cols]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_copied_in_the_order_asked() {
        let mut out = [0.0; 4];
        super::gather_rows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 0], 2, &mut out);
        assert_eq!(out, [5.0, 6.0, 1.0, 2.0]);
    }
}
