//! What chat templates expect of Python: `json.dumps` and `strftime`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::fmt::Write;

/// Layout of [`dumps`].
struct Dump {
    out: String,
    ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// Bytes of a separator or one step of indentation.
const MAX_LAYOUT_BYTES: usize = 64;

/// Nesting that [`dumps`] follows; messages and tools are far below it.
const MAX_DEPTH: usize = 128;

/// The filter `tojson` of transformers: `json.dumps` without escaping for HTML, non-ASCII kept.
pub(super) fn tojson(
    value: &Value,
    ascii: Option<Value>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let ascii = match kwargs.get::<Option<Value>>("ensure_ascii")? {
        Some(given) => Some(given),
        None => ascii,
    };
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        Some(given) => Some(given),
        None => indent,
    };
    let separators: Option<(String, String)> = match kwargs.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let text = |ix| pair.get_item_by_index(ix).map(|item| item.to_string());
            Some((text(0)?, text(1)?))
        }
        _ => None,
    };
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let short = |text: &str| text.len() <= MAX_LAYOUT_BYTES;
    let laid_out = separators.iter().all(|(a, b)| short(a) && short(b));
    if !laid_out || !indent.iter().filter_map(Value::as_str).all(short) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators and indents have at most 64 bytes"));
    }
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
    });
    let default = if indent.is_some() { "," } else { ", " };
    let (item_separator, key_separator) = separators.unwrap_or_else(|| (default.into(), ": ".into()));
    let ascii = ascii.is_some_and(|ascii| ascii.is_true());
    let mut dump = Dump { out: String::new(), ascii, sort_keys, indent, item_separator, key_separator };
    dump.value(value, 0)?;
    Ok(Value::from_safe_string(dump.out))
}

/// Bytes of a text that a template may make in one call. The renderer's fuel counts a result once it exists.
const MAX_TEXT_BYTES: usize = 64 << 20;

fn too_long(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what}: the result would have more than {MAX_TEXT_BYTES} bytes"))
}

/// Python's methods, refused where their result would be absurdly long.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let len = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len);
    let own = len(Some(value));
    let wanted = match name {
        // Between any two characters at most.
        "replace" => (own / len(args.first()).max(1) + 1).saturating_mul(len(args.get(1))).saturating_add(own),
        "join" => {
            let mut sum = 0usize;
            if let Some(items) = args.first().and_then(|items| items.try_iter().ok()) {
                for item in items {
                    sum = sum.saturating_add(own).saturating_add(item.as_str().map_or(64, str::len));
                    if sum > MAX_TEXT_BYTES {
                        break;
                    }
                }
            }
            sum
        }
        // A width or precision of many digits.
        "format" => {
            let digits = value.as_str().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
            if digits.map(str::len).any(|n| n > 4) { usize::MAX } else { 0 }
        }
        _ => 0,
    };
    if wanted > MAX_TEXT_BYTES {
        return Err(too_long(name));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

impl Dump {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', items.len(), depth, |dump, ix| dump.value(&items[ix], depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.container('{', '}', keys.len(), depth, |dump, ix| {
                    dump.string(&keys[ix].to_string());
                    dump.out.push_str(&dump.key_separator.clone());
                    dump.value(&value.get_item(&keys[ix])?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is not JSON")));
            }
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        len: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for ix in 0..len {
            if self.out.len() > MAX_TEXT_BYTES {
                return Err(too_long("tojson"));
            }
            if ix > 0 {
                self.out.push_str(&self.item_separator.clone());
            }
            self.new_line(depth + 1);
            item(self, ix)?;
        }
        if len > 0 {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn number(&mut self, value: &Value) {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
        } else {
            self.out.push_str(&float_repr(f64::try_from(value.clone()).unwrap_or(f64::NAN)));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a String cannot fail.
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Python's shortest text of a float: `1.0`, `1e-05`, `1e+16`.
fn float_repr(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// A time without a zone, for `strftime_now`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DateTime {
    /// Years of the Christian era.
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
}

impl DateTime {
    /// The system's clock in UTC (the standard library knows no time zones).
    pub fn now_utc() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self::from_unix(since.as_secs())
    }

    /// Seconds since 1970 to a date, after the proleptic Gregorian calendar; years begin in March so that the leap day
    /// is the last.
    pub fn from_unix(seconds: u64) -> Self {
        let (days, second) = ((seconds / 86_400) as i64, (seconds % 86_400) as u32);
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
        let year = (year_of_era + era * 400 + i64::from(month <= 2)) as i32;
        Self { year, month, day, hour: second / 3600, minute: second / 60 % 60, second: second % 60 }
    }

    /// Days since 1 January.
    fn day_of_year(self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        BEFORE[(self.month as usize - 1) % 12] + self.day - 1 + u32::from(leap && self.month > 2)
    }

    /// 0 is Sunday.
    fn weekday(self) -> u32 {
        let before = i64::from(self.year) - 1;
        let days = before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        // 1 January of the year 1 was a Monday.
        (days + i64::from(self.day_of_year()) + 1).rem_euclid(7) as u32
    }

    /// Formats in the C locale. Unknown directives are kept as they are.
    pub fn strftime(self, format: &str) -> String {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
        let month = MONTHS[(self.month as usize - 1) % 12];
        let day = DAYS[self.weekday() as usize];
        let hour_12 = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = rest.next();
            let unpadded = directive == Some('-');
            if unpadded {
                directive = rest.next();
            }
            let padded = |n: u32, width: usize| {
                if unpadded { n.to_string() } else { format!("{n:0width$}") }
            };
            out += &match directive {
                Some('Y') => self.year.to_string(),
                Some('y') => padded(self.year.rem_euclid(100) as u32, 2),
                Some('m') => padded(self.month, 2),
                Some('d') => padded(self.day, 2),
                Some('e') => format!("{:2}", self.day),
                Some('H') => padded(self.hour, 2),
                Some('I') => padded(hour_12, 2),
                Some('M') => padded(self.minute, 2),
                Some('S') => padded(self.second, 2),
                Some('f') => "000000".into(),
                Some('j') => padded(self.day_of_year() + 1, 3),
                Some('w') => self.weekday().to_string(),
                Some('p') => if self.hour < 12 { "AM" } else { "PM" }.into(),
                Some('B') => month.into(),
                Some('b' | 'h') => month[..3].into(),
                Some('A') => day.into(),
                Some('a') => day[..3].into(),
                Some('F') => self.strftime("%Y-%m-%d"),
                Some('T' | 'X') => self.strftime("%H:%M:%S"),
                Some('D' | 'x') => self.strftime("%m/%d/%y"),
                Some('R') => self.strftime("%H:%M"),
                Some('c') => self.strftime("%a %b %e %H:%M:%S %Y"),
                Some('z' | 'Z') => String::new(),
                Some('%') => "%".into(),
                Some(other) => format!("%{other}"),
                None => "%".into(),
            };
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let date = DateTime::from_unix(1_741_964_966);
        assert_eq!(date, DateTime { year: 2025, month: 3, day: 14, hour: 15, minute: 9, second: 26 });
        assert_eq!(
            date.strftime("%a %A %d %b %B %Y %j %-d/%-m %I%p %%"),
            "Fri Friday 14 Mar March 2025 073 14/3 03PM %"
        );
        assert_eq!(DateTime::from_unix(0).strftime("%c"), "Thu Jan  1 00:00:00 1970");
        assert_eq!(DateTime::from_unix(951_782_400).strftime("%F %j"), "2000-02-29 060");
    }

    #[test]
    fn floats_as_python_writes_them() {
        let cases =
            [(1.0, "1.0"), (0.1, "0.1"), (1e-5, "1e-05"), (1.5e16, "1.5e+16"), (123_456.0, "123456.0"), (-0.0, "-0.0")];
        for (number, text) in cases {
            assert_eq!(float_repr(number), text);
        }
    }
}
