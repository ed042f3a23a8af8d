//! The WGSL files, embedded.

/// Embeds files by their path in the crate.
macro_rules! embed {
    ($($path:literal,)+) => { &[$(($path, include_str!(concat!("../", $path))),)+] };
}

/// (path, text) of every file.
pub(crate) const FILES: &[(&str, &str)] = embed![
    "kernels/attention.wgsl",
    "kernels/attention_combine.wgsl",
    "kernels/attention_coop.wgsl",
    "kernels/attention_decode.wgsl",
    "kernels/embed.wgsl",
    "kernels/gather_rows.wgsl",
    "kernels/map.wgsl",
    "kernels/matmul.wgsl",
    "kernels/matmul_coop.wgsl",
    "kernels/matvec.wgsl",
    "kernels/moe_order.wgsl",
    "kernels/moe_route.wgsl",
    "kernels/moe_sum.wgsl",
    "kernels/rms_norm.wgsl",
    "kernels/rope_kv.wgsl",
    "kernels/sample_bins.wgsl",
    "kernels/sample_filter.wgsl",
    "kernels/sample_final.wgsl",
    "kernels/sample_gather.wgsl",
    "kernels/sample_partial.wgsl",
    "lib/activation.wgsl",
    "lib/angle.wgsl",
    "lib/bins.wgsl",
    "lib/choice.wgsl",
    "lib/chosen.wgsl",
    "lib/columns.wgsl",
    "lib/coop_tiles.wgsl",
    "lib/expert_tiles.wgsl",
    "lib/gathered.wgsl",
    "lib/grid.wgsl",
    "lib/half_rows.wgsl",
    "lib/noise.wgsl",
    "lib/pages.wgsl",
    "lib/part.wgsl",
    "lib/planes.wgsl",
    "lib/reach.wgsl",
    "lib/reduce.wgsl",
    "lib/row_top.wgsl",
    "lib/small_float.wgsl",
    "lib/step.wgsl",
    "lib/sums.wgsl",
    "lib/visible.wgsl",
    "lib/weight.wgsl",
    "lib/x_bytes.wgsl",
    "slot/bytes_affine4.wgsl",
    "slot/bytes_affine8.wgsl",
    "slot/codes_table.wgsl",
    "slot/codes_unsigned.wgsl",
    "slot/eights_half.wgsl",
    "slot/eights_pairs.wgsl",
    "slot/experts_none.wgsl",
    "slot/experts_routed.wgsl",
    "slot/half_bf16.wgsl",
    "slot/half_f16.wgsl",
    "slot/halves_quads.wgsl",
    "slot/halves_single.wgsl",
    "slot/heads_plain.wgsl",
    "slot/heads_rms_norm.wgsl",
    "slot/kv_affine4.wgsl",
    "slot/kv_affine8.wgsl",
    "slot/kv_f16.wgsl",
    "slot/kv_f16_ragged.wgsl",
    "slot/kv_f32.wgsl",
    "slot/kv_f32_ragged.wgsl",
    "slot/kv_store_affine.wgsl",
    "slot/kv_store_f16.wgsl",
    "slot/kv_store_f32.wgsl",
    "slot/lanes_plain.wgsl",
    "slot/lanes_subgroups.wgsl",
    "slot/logits_ragged.wgsl",
    "slot/logits_vec4.wgsl",
    "slot/out_half.wgsl",
    "slot/out_single.wgsl",
    "slot/pairs_affine4.wgsl",
    "slot/pairs_fp4.wgsl",
    "slot/pairs_fp8.wgsl",
    "slot/pairs_planes.wgsl",
    "slot/pairs_table.wgsl",
    "slot/prologue_none.wgsl",
    "slot/prologue_rms_norm.wgsl",
    "slot/prologue_rms_norm_parts.wgsl",
    "slot/prologue_rms_norm_ragged.wgsl",
    "slot/rows_tokens.wgsl",
    "slot/rows_wanted.wgsl",
    "slot/scale_e4m3.wgsl",
    "slot/scale_e4m3_rows.wgsl",
    "slot/scale_e8m0.wgsl",
    "slot/scale_f32.wgsl",
    "slot/scale_half.wgsl",
    "slot/scale_iq4_nl.wgsl",
    "slot/scale_iq4_xs.wgsl",
    "slot/scale_q2_k.wgsl",
    "slot/scale_q4_k.wgsl",
    "slot/scale_q6_k.wgsl",
    "slot/tile_experts.wgsl",
    "slot/tile_rows.wgsl",
    "slot/unit_single.wgsl",
    "slot/weight_affine4.wgsl",
    "slot/weight_f32.wgsl",
    "slot/weight_f32_ragged.wgsl",
    "slot/weight_fp4.wgsl",
    "slot/weight_fp8.wgsl",
    "slot/weight_half.wgsl",
    "slot/weight_half_ragged.wgsl",
    "slot/weight_planes.wgsl",
    "slot/x_pairs_half.wgsl",
    "slot/x_pairs_single.wgsl",
    "slot/x_ragged.wgsl",
    "slot/x_vec4.wgsl",
];

/// A file that the catalogue names.
pub(crate) fn file(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_embedded() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut names = Vec::new();
        for folder in ["kernels", "lib", "slot"] {
            for entry in std::fs::read_dir(root.join(folder)).expect("the folder is there") {
                names.push(format!("{folder}/{}", entry.expect("readable").file_name().to_string_lossy()));
            }
        }
        names.sort();
        assert_eq!(FILES.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), names);
    }
}
