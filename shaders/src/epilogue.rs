//! Epilogues: a short list of element-wise ops becomes the module `package::slot::epilogue`.

use crate::link::{LinkError, Source};
use crate::spec::{Access, BindingInfo, EpilogueOp, KernelSpec, Role, Rows, Template};
use std::fmt::Write;

const OPERANDS: [Role; 3] = [Role::Operand0, Role::Operand1, Role::Operand2];

/// Columns of the template's result that make one column of the output.
pub(crate) fn columns_per_out(ops: &[EpilogueOp]) -> u32 {
    if ops.iter().any(|op| pairs(*op) || *op == EpilogueOp::RopeKv) { 2 } else { 1 }
}

/// Whether an op makes one column of two.
fn pairs(op: EpilogueOp) -> bool {
    matches!(op, EpilogueOp::SiluMulPairs | EpilogueOp::GeluMulPairs)
}

/// The epilogue's operands, by number.
pub(crate) fn bindings(ops: &[EpilogueOp]) -> Vec<BindingInfo> {
    let used = |n: usize| ops.iter().any(|op| operand(*op).is_some_and(|other| usize::from(other) == n));
    let binding = |n: usize| BindingInfo { role: OPERANDS[n], group: 2, binding: 1 + n as u32, access: Access::Read };
    let mut list: Vec<BindingInfo> = (0..OPERANDS.len()).filter(|n| used(*n)).map(binding).collect();
    if ops.contains(&EpilogueOp::Normed) {
        list.push(BindingInfo { role: Role::NextNorm, group: 1, binding: 3, access: Access::Read });
        list.push(BindingInfo { role: Role::Normed, group: 2, binding: 4, access: Access::ReadWrite });
        list.push(BindingInfo { role: Role::Squares, group: 2, binding: 5, access: Access::ReadWrite });
    }
    if ops.contains(&EpilogueOp::RopeKv) {
        list.push(BindingInfo { role: Role::Freqs, group: 1, binding: 2, access: Access::Read });
        list.push(BindingInfo { role: Role::Kv, group: 3, binding: 0, access: Access::ReadWrite });
    }
    list
}

/// What [`EpilogueOp::RopeKv`] does with the pair `v`, `w` of a row, and so the end of the store.
const ROPE_KV: &str = "\
    let head = 2u * column / HEAD_DIM; // queries', then keys', then values'
    let d = 2u * column % HEAD_DIM;
    if head < N_HEADS + N_KV_HEADS && d < ROT_DIM {
        let turn = cos_sin(residue.position, residue.frequency) * ROPE_SCALE;
        let first_turned = v * turn.x - w * turn.y;
        w = w * turn.x + v * turn.y;
        v = first_turned;
    }
    if head < N_HEADS {
        out_store(row * OUT_STRIDE, OUT_AT + 2u * column, v);
        out_store(row * OUT_STRIDE, OUT_AT + 2u * column + 1u, w);
    } else {
        let kv_head = (head - N_HEADS) % N_KV_HEADS;
        let value_rows = select(KV_VALUE_ROWS, 0u, head < N_HEADS + N_KV_HEADS);
        kv_store(0u, true, key_row(residue.slot, kv_head) + value_rows, d / 2u, vec2<f32>(v, w));
    }
    return 0.0;
}
";

fn operand(op: EpilogueOp) -> Option<u8> {
    match op {
        EpilogueOp::Bias(n) | EpilogueOp::Add(n) | EpilogueOp::Mul(n) => Some(n),
        _ => None,
    }
}

/// The module's text. It declares the output and the operands, and
/// `epilogue_begin(row, column)`, which loads what the column needs besides and may come long before
/// `epilogue_store(row, column, first, second, residue)`: stores output column `column`, made of the template's column
/// `column`, or with pairs of `2 * column` and `2 * column + 1`, and gives its number. If `STORES_SQUARES` is 1, the
/// template hands the sums of a row's squares to `epilogue_squares(row, part, sum)`.
pub(crate) fn generate(spec: &KernelSpec) -> Result<Source, LinkError> {
    check(spec)?;
    let names = spec.epilogue.iter().map(|op| op.to_string()).collect::<Vec<_>>().join(", ");
    let mut text = format!("// Epilogue: {}.\n", if names.is_empty() { "none" } else { &names });
    for (name, ops) in [
        ("silu", [EpilogueOp::Silu, EpilogueOp::SiluMulPairs]),
        ("gelu", [EpilogueOp::Gelu, EpilogueOp::GeluMulPairs]),
        ("softcap", [EpilogueOp::Softcap; 2]),
    ] {
        if spec.epilogue.iter().any(|op| ops.contains(op)) {
            text = format!("import package::lib::activation::{name};\n{text}");
        }
    }
    let rotates = spec.epilogue.contains(&EpilogueOp::RopeKv);
    if rotates {
        let imports = "import package::lib::step::{step_token, step_slot};\nimport package::lib::angle::cos_sin;\n\
                       import package::lib::pages::{KV_VALUE_ROWS, key_row};\n\
                       import package::slot::kv_store::kv_store;\n";
        text = format!("{imports}{text}");
    }
    let normed = spec.epilogue.contains(&EpilogueOp::Normed);
    if normed {
        text = format!("import package::lib::half_rows::{{HALF_SCALE, half_place}};\n{text}");
    }
    let adds_in_place = spec.epilogue.contains(&EpilogueOp::AddOut);
    let out = if adds_in_place { "{out, out_store}" } else { "out_store" };
    text = format!("import package::slot::out::{out};\n{text}\n");
    // Pages are declared by what writes to them.
    for info in bindings(&spec.epilogue).into_iter().filter(|info| info.role != Role::Kv) {
        let (access, kind) = match (info.access, info.role) {
            (Access::Read, _) => ("read", "f32"),
            (Access::ReadWrite, Role::Normed) => ("read_write", "f16"),
            (Access::ReadWrite, _) => ("read_write", "f32"),
        };
        let BindingInfo { role, group, binding, .. } = info;
        let _ = writeln!(text, "@group({group}) @binding({binding}) var<storage, {access}> {role}: array<{kind}>;");
    }
    let n_columns = columns_per_out(&spec.epilogue);
    let _ = writeln!(text, "\nconst COLUMNS_PER_OUT = {n_columns}u;");
    let _ = writeln!(text, "const STORES_SQUARES = {}u;\n", u32::from(normed));
    let store = if normed { "    squares[row * SQUARE_PARTS + part] = sum;\n" } else { "" };
    let _ = writeln!(text, "fn epilogue_squares(row: u32, part: u32, sum: f32) {{\n{store}}}\n");
    text.push_str(&residue(&spec.epilogue));
    text.push_str("fn epilogue_store(row: u32, column: u32, first: f32, second: f32, residue: Residue) -> f32 {\n");
    text.push_str("    var v = first;\n");
    let mut pairs = n_columns == 2;
    if pairs {
        text.push_str("    var w = second;\n");
    }
    for op in &spec.epilogue {
        let both = |line: &dyn Fn(&str, &str) -> String| {
            if pairs {
                format!("{} {}", line("v", "2u * column"), line("w", "2u * column + 1u"))
            } else {
                line("v", "column")
            }
        };
        let line = match op {
            EpilogueOp::Bias(n) => both(&|v, at| format!("{v} += operand{n}[{at}];")),
            EpilogueOp::Add(n) => format!("v += operand{n}[row * OUT_COLS + column];"),
            EpilogueOp::Mul(n) => format!("v *= operand{n}[row * OUT_COLS + column];"),
            EpilogueOp::AddOut => "v += residue.added;".into(),
            EpilogueOp::Normed => {
                "normed[row * OUT_COLS + half_place(column)] = f16(v * residue.norm * HALF_SCALE);".into()
            }
            EpilogueOp::Silu => both(&|v, _| format!("{v} = silu({v});")),
            EpilogueOp::Gelu => both(&|v, _| format!("{v} = gelu({v});")),
            EpilogueOp::SiluMulPairs | EpilogueOp::GeluMulPairs => {
                pairs = false;
                let name = if *op == EpilogueOp::SiluMulPairs { "silu" } else { "gelu" };
                format!("v = {name}(v) * w;")
            }
            EpilogueOp::Scale => both(&|v, _| format!("{v} *= FACTOR;")),
            EpilogueOp::Softcap => both(&|v, _| format!("{v} = softcap({v}, CAP);")),
            EpilogueOp::RopeKv => {
                let _ = write!(text, "    // {op}\n{ROPE_KV}");
                return Ok(Source::new(format!("epilogue({names})"), text));
            }
        };
        let _ = writeln!(text, "    {line} // {op}");
    }
    text.push_str("    out_store(row * OUT_STRIDE, OUT_AT + column, v);\n    return v;\n}\n");
    Ok(Source::new(format!("epilogue({names})"), text))
}

/// What an output column needs besides the product, where the loads can come before it: the struct and its making.
fn residue(ops: &[EpilogueOp]) -> String {
    let mut fields = Vec::new();
    if ops.contains(&EpilogueOp::AddOut) {
        fields.push(("added: f32", "out[row * OUT_STRIDE + OUT_AT + column]"));
    }
    if ops.contains(&EpilogueOp::Normed) {
        fields.push(("norm: f32", "next_norm[column]"));
    }
    if ops.contains(&EpilogueOp::RopeKv) {
        fields.push(("position: u32", "step_token(row).y"));
        fields.push(("slot: u32", "step_slot(KV_GROUP, row)"));
        fields.push(("frequency: f32", "freqs[min(2u * column % HEAD_DIM, ROT_DIM - 2u) / 2u]"));
    }
    if fields.is_empty() {
        fields.push(("nothing: u32", "0u"));
    }
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    format!(
        "struct Residue {{ {} }}\n\nfn epilogue_begin(row: u32, column: u32) -> Residue {{\n    return Residue({});\n}}\n\n",
        names.join(", "),
        values.join(", ")
    )
}

/// Checks operand numbers, and that ops stand on the right side of the pairing.
fn check(spec: &KernelSpec) -> Result<(), LinkError> {
    let ops = &spec.epilogue;
    let pairs_at = ops.iter().position(|op| pairs(*op));
    for (ix, op) in ops.iter().enumerate() {
        let bad = |why| Err(LinkError::BadEpilogue { template: spec.template, op: *op, why });
        if operand(*op).is_some_and(|n| usize::from(n) >= OPERANDS.len()) {
            return bad("operands are 0, 1 and 2");
        }
        if pairs(*op) && spec.template == Template::MoeSum {
            return bad("a sum of experts pairs no columns");
        }
        if *op == EpilogueOp::Normed && (spec.template != Template::Matvec || ix + 1 != ops.len()) {
            return bad("stands last, in a matvec");
        }
        if spec.template == Template::RmsNorm && !matches!(op, EpilogueOp::Add(_) | EpilogueOp::AddOut) {
            return bad("a norm takes sums alone");
        }
        if *op == EpilogueOp::RopeKv {
            let alone = ops[..ix].iter().all(|op| matches!(op, EpilogueOp::Bias(_)));
            if spec.template != Template::Matvec || spec.rows != Rows::Tokens || ix + 1 != ops.len() || !alone {
                return bad("stands last, after biases alone, in a matvec on tokens");
            }
        }
        match (op, pairs_at) {
            (EpilogueOp::SiluMulPairs | EpilogueOp::GeluMulPairs, Some(at)) if at != ix => {
                return bad("columns are paired once");
            }
            (EpilogueOp::Add(_) | EpilogueOp::AddOut | EpilogueOp::Mul(_), Some(at)) if ix < at => {
                return bad("has the shape of the result, so it cannot stand before columns are paired");
            }
            _ => {}
        }
    }
    Ok(())
}
