//! The verifier of [`Plan`]: what a runtime relies on without looking again.

use crate::IrError;
use crate::handle::Handle;
use crate::kernel::{
    BIN_WORDS, EPILOGUE_ROLES, EpilogueOp, KernelSpec, PART_WORDS, Prologue, Role, Rows, Template, gathered_ids,
};
use crate::kv::PAGE_TOKENS;
use crate::plan::{
    BINDING_ALIGN, Binding, Bound, DispatchId, MAX_BATCH, MAX_BYTES, MAX_CONTEXT, MAX_STEP, MAX_WORKGROUPS,
    PLAN_VERSION, Plan, PlanKernel, PlanWeight, Variant, VariantId,
};
use crate::size::{Dim, Dims};
use crate::weight::{Layout, checked_bytes};

impl Plan {
    /// Checks that every index, range and size is within bounds, that operands match their kernel's bindings, that no
    /// dispatch binds one buffer both read and read_write, that each binding covers what the template accesses, and that
    /// no grid or sum of sizes overflows. A plan may be a stranger's: whatever it holds, this ends with a value or an error.
    pub fn verify(&self) -> Result<(), IrError> {
        let bad = |item: &dyn std::fmt::Display, why: String| Err(IrError::Invalid { item: item.to_string(), why });
        if self.version != PLAN_VERSION {
            return bad(&"plan", format!("version {} is not {PLAN_VERSION}; compile the model again", self.version));
        }
        if self.max_context == 0 || self.n_vocab == 0 {
            return bad(&"plan", "context and vocabulary must be positive".into());
        }
        if self.page_tokens != PAGE_TOKENS {
            return bad(&"plan", format!("pages of {} tokens; kernels know those of {PAGE_TOKENS}", self.page_tokens));
        }
        if self.max_context > MAX_CONTEXT {
            return bad(&"plan", format!("a context of more than {MAX_CONTEXT} tokens"));
        }
        if self.max_batch == 0 || self.max_batch > MAX_BATCH {
            return bad(&"plan", format!("is for {} sequences; 1 to {MAX_BATCH} are possible", self.max_batch));
        }
        if self.variants.is_empty() {
            return bad(&"plan", "has no variants".into());
        }
        self.exprs.verify()?;
        self.kv.verify()?;
        for (id, group) in self.kv.groups.iter() {
            let dims = [group.shape.k_dim, group.shape.v_dim];
            dims.into_iter().find_map(|dim| self.kv_type.refuses(dim)).map_or(Ok(()), |why| bad(&id, why))?;
        }
        for (id, weight) in self.weights.iter() {
            self.verify_weight(weight).or_else(|why| bad(&id, why))?;
        }
        for (id, kernel) in self.kernels.iter() {
            self.verify_kernel(kernel).or_else(|why| bad(&id, why))?;
        }
        let mut next = 0;
        for (id, variant) in self.variants.iter() {
            let end =
                variant.first.checked_add(variant.n_dispatches).filter(|end| *end as usize <= self.dispatches.len());
            if variant.first != next || variant.q_tile == 0 || end.is_none() {
                return bad(&id, "its dispatches are not the next ones".into());
            }
            if let Some(dim) = Dim::ALL.into_iter().find(|dim| variant.bounds.get(*dim) > MAX_STEP) {
                let n = variant.bounds.get(dim);
                return bad(&id, format!("is for {n} {}, the most is {MAX_STEP}", dim.name()));
            }
            let tiles = u64::from(variant.bounds.tokens) * u64::from(variant.max_parts);
            let fits = variant.q_tile == 1 && tiles <= u64::from(variant.bounds.tiles);
            if variant.max_parts == 0 || (variant.max_parts > 1 && !fits) {
                return bad(&id, format!("has no tiles for KV in {} parts", variant.max_parts));
            }
            self.verify_bounds(variant).or_else(|why| bad(&id, why))?;
            next = variant.first + variant.n_dispatches;
        }
        if next as usize != self.dispatches.len() {
            return bad(&"plan", "a dispatch belongs to no variant".into());
        }
        self.verify_sizes().or_else(|why| bad(&"plan", why))?;
        for variant in self.variants.ids() {
            self.verify_dispatches(variant)?;
        }
        Ok(())
    }

    /// Checks that a step of the variant's tokens and sequences can be put together.
    fn verify_bounds(&self, variant: &Variant) -> Result<(), String> {
        let Dims { tokens, sequences, rows, tiles, filtered } = variant.bounds;
        if tokens == 0 || sequences == 0 || rows == 0 {
            return Err("is for steps of nothing".into());
        }
        if filtered > rows {
            return Err(format!("is for {filtered} filtered rows of {rows}"));
        }
        // The last tile of each sequence may hold a single token.
        let most =
            (u64::from(tokens) + u64::from(sequences) * u64::from(variant.q_tile - 1)) / u64::from(variant.q_tile);
        let needed = most.min(u64::from(tokens));
        if u64::from(tiles) < needed {
            return Err(format!("is for {tiles} tiles; {tokens} tokens of {sequences} sequences may need {needed}"));
        }
        Ok(())
    }

    fn verify_weight(&self, weight: &PlanWeight) -> Result<(), String> {
        let PlanWeight { n_rows, n_cols, format, layout, .. } = *weight;
        let Some(n_bytes) = checked_bytes(format, layout, n_rows, n_cols) else {
            return Err(format!("{n_rows} x {n_cols} {format} cannot lie in memory as {}", layout.name()));
        };
        if weight.layout != Layout::Vector && weight.segments.iter().any(|run| run.plus_one) {
            return Err("adds 1 to the numbers of a matrix".into());
        }
        // Rows in another order come from anywhere within their heads.
        let runs_end = weight.segments.iter().all(|run| {
            run.first_row.checked_add(run.n_rows).is_some() && run.order.is_none_or(|order| order.fits(order.head_dim))
        });
        let rows: u128 = weight.segments.iter().map(|segment| u128::from(segment.n_rows)).sum();
        let filled = if weight.inline.is_empty() {
            rows == u128::from(n_rows) && runs_end
        } else {
            weight.inline.len() as u128 * 4 == u128::from(n_bytes)
        };
        let pairs = weight.segments.len().is_multiple_of(2)
            && !weight.segments.is_empty()
            && weight.segments.chunks_exact(2).all(|pair| pair[0].n_rows == pair[1].n_rows);
        if !filled || (weight.interleaved && !pairs) {
            return Err("its segments do not fill it".into());
        }
        if !self.is_cpu && n_bytes > self.max_binding_bytes {
            let limit = self.max_binding_bytes;
            return Err(format!("{n_bytes} bytes exceed the target's binding limit of {limit}"));
        }
        Ok(())
    }

    fn verify_kernel(&self, kernel: &PlanKernel) -> Result<(), String> {
        kernel.spec.verify()?;
        let places: Vec<_> = kernel.slots.iter().map(|slot| (slot.group, slot.binding)).collect();
        if let Some(ix) = (1..places.len()).find(|ix| places[..*ix].contains(&places[*ix])) {
            return Err(format!("binding {}.{} is declared twice", places[ix].0, places[ix].1));
        }
        Ok(())
    }

    /// Checks that the sizes of everything that is allocated have a sum.
    fn verify_sizes(&self) -> Result<(), String> {
        let sum = |items: &mut dyn Iterator<Item = u64>| items.map(u128::from).sum::<u128>();
        let bounds = self.max_bounds();
        let pages = u128::from(self.max_pages()) * u128::from(self.max_batch);
        let page_bytes = |group| {
            let entry = u128::from(self.kv.groups[group].shape.entry_bytes(self.kv_type));
            entry * u128::from(self.page_tokens) * self.kv.n_layers_of(group) as u128
        };
        let kv: u128 = self.kv.groups.ids().map(page_bytes).sum();
        for (what, n_bytes) in [
            ("weights", sum(&mut self.weights.as_slice().iter().map(PlanWeight::n_bytes))),
            ("transient buffers", sum(&mut self.arenas.as_slice().iter().copied())),
            ("logits", u128::from(bounds.rows) * u128::from(self.n_vocab) * 4),
            ("keys and values of all sequences", pages.saturating_mul(kv)),
            ("page tables", pages * self.kv.groups.len() as u128 * 4),
        ] {
            if n_bytes > u128::from(MAX_BYTES) {
                return Err(format!("the {what} have {n_bytes} bytes, more than {MAX_BYTES}"));
            }
        }
        Ok(())
    }

    fn verify_dispatches(&self, variant: VariantId) -> Result<(), IrError> {
        let most = u64::from(MAX_WORKGROUPS) * u64::from(MAX_WORKGROUPS);
        let bounds = self.variants[variant].bounds;
        let first = self.variants[variant].first;
        for id in (first..first + self.variants[variant].n_dispatches).map(DispatchId) {
            self.verify_dispatch(id)?;
            let grid = self.dispatches[id].grid;
            if grid.ix() >= self.exprs.len() {
                return Err(IrError::invalid(id, format!("grid {grid} does not exist")));
            }
            if self.exprs.checked(grid, &bounds).is_none_or(|n| n > most) {
                let grid = self.exprs.show(grid);
                let why = format!("grid {grid} exceeds {MAX_WORKGROUPS} x {MAX_WORKGROUPS} at the variant's bounds");
                return Err(IrError::invalid(id, why));
            }
        }
        Ok(())
    }

    fn verify_dispatch(&self, id: DispatchId) -> Result<(), IrError> {
        let bad = |why: String| Err(IrError::invalid(id, why));
        let dispatch = &self.dispatches[id];
        let Some(kernel) = self.kernels.get(dispatch.kernel) else {
            return bad(format!("{} does not exist", dispatch.kernel));
        };
        let end =
            dispatch.first_operand.checked_add(dispatch.n_operands).filter(|end| *end as usize <= self.operands.len());
        if end.is_none() {
            return bad("its operands do not exist".into());
        }
        let spec = &kernel.spec;
        let has_parts = spec.prologue == Prologue::RmsNormParts || spec.epilogue.contains(&EpilogueOp::Normed);
        if has_parts && spec.u32("SQUARE_PARTS").is_none_or(|n| n == 0) {
            return bad("does not say how many sums of squares a row has".into());
        }
        let operands = self.operands_of(dispatch);
        for (ix, operand) in operands.iter().enumerate() {
            if operands[..ix].iter().any(|other| other.role == operand.role) {
                return bad(format!("has two operands {}", operand.role));
            }
            let exists = match operand.binding {
                Binding::Step | Binding::Sampled | Binding::Columns | Binding::Logits => true,
                Binding::Arena { arena, offset, n_bytes } => {
                    let size = self.arenas.get(arena).copied().unwrap_or(0);
                    let fits = offset.checked_add(n_bytes).is_some_and(|end| end <= size);
                    if offset % BINDING_ALIGN != 0 || n_bytes == 0 || n_bytes > self.max_binding_bytes {
                        return bad(format!("operand {} is unaligned, empty or larger than a binding", operand.role));
                    }
                    fits
                }
                Binding::Weight(blob) => self.weights.get(blob).is_some(),
                Binding::Kv(layer) => self.kv.layers.get(layer).is_some(),
                Binding::PageTable(group) => self.kv.groups.get(group).is_some(),
            };
            if !exists {
                return bad(format!("operand {} is bound to what does not exist", operand.role));
            }
            let meets = if self.is_cpu { overlap } else { same_buffer };
            let clash = operands.iter().any(|other| other.access != operand.access && meets(operand, other));
            if clash {
                return bad(format!("binds the buffer of {} both read and read_write", operand.role));
            }
            if !may_bind(operand.role, &kernel.spec, operand.binding) {
                return bad(format!("operand {} cannot be bound to that", operand.role));
            }
            self.verify_extent(id, operand)?;
        }
        if !self.is_cpu {
            if kernel.slots.len() != operands.len() {
                return bad(format!("{} operands for {} bindings", operands.len(), kernel.slots.len()));
            }
            for slot in &kernel.slots {
                match operands.iter().find(|operand| operand.role == slot.role) {
                    None => return bad(format!("operand {} is missing", slot.role)),
                    Some(operand) if operand.access != slot.access => {
                        return bad(format!("{} is declared {}", slot.role, slot.access));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Checks that a binding covers the range that its template declares to access.
    fn verify_extent(&self, id: DispatchId, operand: &Bound) -> Result<(), IrError> {
        let kernel = &self.kernels[self.dispatches[id].kernel].spec;
        // Wide enough for any product of three, so that no number of a foreign plan wraps around.
        let n = |name: &str| u128::from(kernel.u32(name).unwrap_or(0));
        let Some(variant) = self.variants.as_slice().iter().rev().find(|v| v.first <= id.0) else {
            return Err(IrError::invalid(id, "belongs to no variant"));
        };
        let rows = u128::from(match kernel.rows {
            Rows::Tokens => variant.bounds.tokens,
            Rows::Wanted => variant.bounds.rows,
        });
        // Ids in a sequence's lists are checked against the vocabulary.
        if samples(kernel.template) && kernel.u32("N").is_some_and(|n| n != self.n_vocab) {
            let why = format!("chooses among {} tokens, not the vocabulary's {}", n("N"), self.n_vocab);
            return Err(IrError::invalid(id, why));
        }
        // A product with experts has a row for each of a row's experts, a route their ids and shares.
        let top_k = n("TOP_K").max(1);
        let products = rows * top_k;
        let x_rows = if n("X_EACH") == 1 { products } else { rows };
        // Tiles of products of one expert, which say whose they are and which: each expert's last may not be full.
        let tile = n("TILE_M").max(1);
        let order_words = (products.div_ceil(tile) + n("EXPERTS")) * (tile + 1);
        let heads = |n_heads: &str| n(n_heads) * n("HEAD_DIM");
        let runs = u128::from(kernel.u32("RUNS").unwrap_or(1)) * n("N_COLS");
        // Pairs leave half the columns, a rotation with cache write the queries'.
        let n_out = match kernel.epilogue.last() {
            Some(EpilogueOp::RopeKv) => heads("N_HEADS"),
            _ if kernel.template == Template::RmsNorm => runs,
            _ => n("N").max(n("N_COLS")) / u128::from(kernel.columns_per_out()),
        };
        // A `map` may leave it to the template.
        let out_stride = kernel.u32("OUT_STRIDE").map_or(n_out, u128::from);
        let (end, stride) = match (kernel.template, operand.role) {
            (template, Role::Out)
                if template.multiplies()
                    || matches!(template, Template::Map | Template::RmsNorm | Template::MoeSum) =>
            {
                (n("OUT_AT") + n_out, out_stride)
            }
            (Template::RmsNorm, Role::X) => (n("X_AT") + runs, n("X_STRIDE")),
            (Template::RopeKv, Role::Q) => (n("Q_AT") + heads("N_HEADS"), n("Q_STRIDE")),
            (Template::RopeKv, Role::K) => (n("K_AT") + heads("N_KV_HEADS"), n("K_STRIDE")),
            (Template::RopeKv, Role::V) => (n("V_AT") + heads("N_KV_HEADS"), n("V_STRIDE")),
            _ => (0, 0),
        };
        if end > stride {
            return Err(IrError::invalid(
                id,
                format!("operand {} ends at column {end} of rows of {stride}", operand.role),
            ));
        }
        // Numbers of 4 bytes that the template touches, where it is bound to an arena or the logits.
        let words = match (kernel.template, operand.role) {
            // Half rows are two numbers a word.
            (template, Role::X) if template.multiplies() && n("X_HALF") == 1 => x_rows * n("K").div_ceil(2),
            (template, Role::Out) if may_leave_half(template) && n("OUT_HALF") == 1 => {
                products * out_stride.div_ceil(2)
            }
            (Template::AttentionDecode, Role::Out) if n("PARTS") > 0 => {
                u128::from(variant.bounds.tiles) * n("N_HEADS") * (n("HEAD_DIM") + 2)
            }
            (Template::AttentionCombine, Role::X) => {
                u128::from(variant.bounds.tiles) * n("N_HEADS") * (n("HEAD_DIM") + 2)
            }
            (template, Role::Out)
                if (template.reads_pages() || template == Template::AttentionCombine) && n("OUT_HALF") == 1 =>
            {
                rows * heads("N_HEADS").div_ceil(2)
            }
            (Template::Matvec, Role::Normed) => rows * n_out.div_ceil(2),
            (Template::Matvec, Role::Squares) => rows * n("SQUARE_PARTS"),
            (Template::MoeRoute, Role::X) => rows * n("EXPERTS"),
            (Template::MoeRoute, Role::Out) | (_, Role::Route) => products * 2,
            (Template::MoeOrder, Role::Out) | (_, Role::Order) => order_words,
            (Template::MoeSum, Role::X) => products * n("N_COLS"),
            (Template::MoeSum, Role::Out) => rows * out_stride,
            (Template::MoeSum, Role::Operand0 | Role::Operand1 | Role::Operand2) => rows * n_out,
            (template, Role::X) if template.multiplies() => x_rows * n("K"),
            (template, Role::Out) if template.multiplies() || matches!(template, Template::Map | Template::RmsNorm) => {
                products * out_stride
            }
            (Template::RopeKv, Role::Q) => rows * n("Q_STRIDE"),
            (Template::RopeKv, Role::K) => rows * n("K_STRIDE"),
            (Template::RopeKv, Role::V) => rows * n("V_STRIDE"),
            (Template::RopeKv, Role::Out) => rows * heads("N_HEADS"),
            (template, Role::Q | Role::Out) if template.reads_pages() => rows * heads("N_HEADS"),
            (Template::AttentionCombine, Role::Out) => rows * heads("N_HEADS"),
            (Template::GatherRows, Role::X) => u128::from(variant.bounds.tokens) * n("N_COLS"),
            (Template::RmsNorm, Role::X) => rows * n("X_STRIDE"),
            (Template::Embed | Template::Map | Template::GatherRows, Role::X | Role::Out) => rows * n("N_COLS"),
            (template, Role::Operand0 | Role::Operand1 | Role::Operand2)
                if template.multiplies() || matches!(template, Template::Map | Template::RmsNorm) =>
            {
                products * n_out
            }
            (template, Role::X) if samples(template) => rows * n("N"),
            (Template::SamplePartial, Role::Out) | (_, Role::Parts) => {
                rows * n("N").div_ceil(n("BLOCK").max(1)) * u128::from(PART_WORDS)
            }
            (Template::SampleBins, Role::Out) | (_, Role::Bins) => rows * u128::from(BIN_WORDS),
            (Template::SampleGather, Role::Out) | (_, Role::Gathered) => {
                rows * u128::from(gathered_ids(n("N").try_into().unwrap_or(u32::MAX)))
            }
            _ => 0,
        };
        let bound = match operand.binding {
            Binding::Arena { n_bytes, .. } => n_bytes,
            Binding::Logits => self.logits_bytes(),
            Binding::Weight(blob) => {
                return self.verify_weight_extent(
                    id,
                    operand,
                    blob,
                    kernel.u32("K").or(kernel.u32("N_COLS")).unwrap_or(0).into(),
                );
            }
            Binding::Kv(layer) => {
                let shape = self.kv.shape(layer);
                let same = |dim: u32| n("HEAD_DIM") == u128::from(dim);
                let fits = n("N_KV_HEADS") == u128::from(shape.n_kv_heads) && same(shape.k_dim) && same(shape.v_dim);
                // A writer finds its slots by the layer's group.
                let group = u128::from(self.kv.layers[layer].group.0);
                let reads = kernel.template.reads_pages();
                let slots = reads || n("KV_GROUP") == group;
                let number = |name: &str, unset: u32| kernel.u32(name).unwrap_or(unset);
                let kv_bits = number("KV_BITS", 16);
                let groups = self.kv_type.group().is_none_or(|group| number("KV_QUANT_GROUP", 64) == group);
                let kept = kv_bits == self.kv_type.bits() && groups;
                return if fits && slots && kept && !shape.latent {
                    Ok(())
                } else {
                    Err(IrError::invalid(id, format!("{layer} does not fit operand {}", operand.role)))
                };
            }
            Binding::Sampled if operand.role == Role::Out && rows > u128::from(self.max_bounds().rows) => {
                let why = format!("chooses the tokens of {rows} rows, {} are wanted at most", self.max_bounds().rows);
                return Err(IrError::invalid(id, why));
            }
            Binding::Columns if n("RING") != u128::from(self.history_tokens()) => {
                let why = format!("keeps {} tokens of a history, not {}", n("RING"), self.history_tokens());
                return Err(IrError::invalid(id, why));
            }
            Binding::PageTable(_) if n("MAX_PAGES") != u128::from(self.max_pages()) => {
                let why = format!("reads page tables of {} pages, not {}", n("MAX_PAGES"), self.max_pages());
                return Err(IrError::invalid(id, why));
            }
            _ => return Ok(()),
        };
        if words * 4 > u128::from(bound) {
            return Err(IrError::invalid(
                id,
                format!("operand {} spans {} bytes, {} are bound", operand.role, words * 4, bound),
            ));
        }
        Ok(())
    }

    fn verify_weight_extent(
        &self,
        id: DispatchId,
        operand: &Bound,
        blob: crate::plan::BlobId,
        n_cols: u64,
    ) -> Result<(), IrError> {
        let weight = &self.weights[blob];
        let kernel = &self.kernels[self.dispatches[id].kernel].spec;
        let next_cols = u128::from(kernel.u32("N").unwrap_or(0) / kernel.columns_per_out());
        let fits = match (operand.role, kernel.template) {
            (Role::Weight, Template::Embed) => {
                u64::from(weight.n_cols) == n_cols
                    && kernel.u32("ROW_COUNT") == Some(weight.n_rows)
                    && kernel.weight == Some(weight.format)
            }
            (Role::Weight, _) => {
                let n_rows = kernel.u32("N").and_then(|n| n.checked_mul(kernel.u32("EXPERT_COUNT").unwrap_or(1)));
                u64::from(weight.n_cols) == n_cols
                    && n_rows == Some(weight.n_rows)
                    && kernel.weight == Some(weight.format)
            }
            (Role::Operand0 | Role::Operand1 | Role::Operand2, _) => {
                weight.n_cols == 1 && Some(weight.n_rows) == kernel.u32("N").or(kernel.u32("N_COLS"))
            }
            (Role::Freqs, _) => weight.n_cols == 1 && Some(weight.n_rows) == kernel.u32("ROT_DIM").map(|n| n / 2),
            (Role::NextNorm, _) => u128::from(weight.n_rows) == next_cols && weight.n_cols == 1,
            (Role::NormWeight, Template::RopeKv) => {
                Some(weight.n_rows) == kernel.u32("HEAD_DIM").and_then(|n| n.checked_mul(2)) && weight.n_cols == 1
            }
            (Role::NormWeight, _) => u64::from(weight.n_rows) == n_cols && weight.n_cols == 1,
            _ => true,
        };
        // Matrices as the runtime reads them, everything else widened.
        let laid_out = match operand.role {
            Role::Weight => weight.layout != Layout::Vector && (weight.layout == Layout::Stored) == self.is_cpu,
            _ => weight.layout == Layout::Vector,
        };
        if fits && laid_out {
            Ok(())
        } else {
            Err(IrError::invalid(
                id,
                format!(
                    "{blob} ({} x {} {}) does not fit operand {}",
                    weight.n_rows, weight.n_cols, weight.format, operand.role
                ),
            ))
        }
    }
}

/// Whether a template but attention may leave its result in half rows.
fn may_leave_half(template: Template) -> bool {
    matches!(template, Template::Matvec | Template::MatmulCoop | Template::RmsNorm)
}

/// Whether a template is one of those that choose tokens.
fn samples(template: Template) -> bool {
    use Template::{SampleBins, SampleFilter, SampleFinal, SampleGather, SamplePartial};
    matches!(template, SamplePartial | SampleBins | SampleGather | SampleFilter | SampleFinal)
}

/// Whether an operand of a role may lie where it is bound.
fn may_bind(role: Role, kernel: &KernelSpec, binding: Binding) -> bool {
    match role {
        Role::Step => binding == Binding::Step,
        Role::Sampled => binding == Binding::Sampled,
        Role::Kv => matches!(binding, Binding::Kv(_)),
        Role::PageTable => matches!(binding, Binding::PageTable(_)),
        Role::Weight | Role::NormWeight | Role::NextNorm | Role::Freqs => matches!(binding, Binding::Weight(_)),
        Role::Operand0 | Role::Operand1 | Role::Operand2 => {
            let is_vector = matches!(binding, Binding::Weight(_));
            let reads = |n: u8| EPILOGUE_ROLES.get(usize::from(n)) == Some(&role);
            // A bias is a number a column; the others' operands have the result's rows.
            let suits = kernel.epilogue.iter().all(|op| match *op {
                EpilogueOp::Bias(n) if reads(n) => is_vector,
                EpilogueOp::Add(n) | EpilogueOp::Mul(n) if reads(n) => !is_vector,
                _ => true,
            });
            suits && (is_vector || matches!(binding, Binding::Arena { .. } | Binding::Logits))
        }
        Role::Out if matches!(kernel.template, Template::SampleFilter | Template::SampleFinal) => {
            binding == Binding::Sampled
        }
        Role::Columns => binding == Binding::Columns,
        Role::Normed | Role::Squares | Role::Parts | Role::Bins | Role::Gathered | Role::Order => {
            matches!(binding, Binding::Arena { .. })
        }
        Role::X | Role::Q | Role::K | Role::V | Role::Route | Role::Out => {
            matches!(binding, Binding::Arena { .. } | Binding::Logits)
        }
    }
}

/// Whether two operands share memory: all that the CPU runtime must not find on both sides.
fn overlap(a: &Bound, b: &Bound) -> bool {
    match (a.binding, b.binding) {
        (
            Binding::Arena { arena: a, offset: a_at, n_bytes: a_bytes },
            Binding::Arena { arena: b, offset: b_at, n_bytes: b_bytes },
        ) => a == b && a_at < b_at.saturating_add(b_bytes) && b_at < a_at.saturating_add(a_bytes),
        (a, b) => a == b,
    }
}

/// Whether two operands are bound to one buffer, which wgpu tracks as a whole.
fn same_buffer(a: &Bound, b: &Bound) -> bool {
    match (a.binding, b.binding) {
        (Binding::Arena { arena: a, .. }, Binding::Arena { arena: b, .. }) => a == b,
        (a, b) => a == b,
    }
}
