//! Chat templates: the Jinja that transformers runs, on minijinja with Python's methods.
//!
//! A template comes with a downloaded checkpoint, so it is bounded: it cannot read files, and its time and memory are
//! limited by fuel.

pub use super::python::DateTime;
use super::python::{method, tojson};
use super::tokenizer::{SpecialTokens, special_tokens};
use crate::error::{Error, Result};
use crate::files::Files;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value as JinjaValue;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

/// Work that one rendering may do: about an instruction or 64 bytes of text each, so some tenths of a second and 256 MB.
const FUEL: u64 = 4_000_000;
/// A longer template is refused. Published templates have up to 20 KB.
const MAX_TEMPLATE_BYTES: u64 = 1 << 16;
/// More characters of operators are refused: minijinja compiles a chain of them in quadratic time, which fuel does not
/// bound. Published templates have up to 2000.
const MAX_OPERATORS: usize = 8192;
/// minijinja compiles expressions and drops nested lists recursively, as deep as the template's length and fuel allow.
/// A stack is only reserved, and used as far as it is needed.
const STACK_BYTES: usize = 512 << 20;

/// What a rendering gets besides the messages.
#[derive(Clone, Debug)]
pub struct ChatOptions {
    /// Tools in the OpenAI shape, a list; absent where there are none.
    pub tools: Option<Value>,
    /// Whether to end with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the last message is to be gone on with: the prompt ends with its text, and `add_generation_prompt` is off.
    pub continue_final_message: bool,
    /// Further variables, e.g. `enable_thinking`. They win over those above.
    pub extra: Map<String, Value>,
    /// The time that `strftime_now` sees.
    pub now: DateTime,
}

impl Default for ChatOptions {
    /// No tools, the assistant's turn opened, the system's clock.
    fn default() -> Self {
        Self {
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            extra: Map::new(),
            now: DateTime::now_utc(),
        }
    }
}

/// The chat templates of a checkpoint.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// By name; a single one is `default`.
    templates: Vec<(String, String)>,
    special: SpecialTokens,
}

/// ChatML, which many models know: the template of last resort.
const CHAT_ML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

impl ChatTemplate {
    /// The template that transformers once took for models that have none: ChatML.
    pub fn chat_ml() -> Self {
        Self::new(CHAT_ML, SpecialTokens::new())
    }

    /// A single template.
    pub fn new(template: impl Into<String>, special: SpecialTokens) -> Self {
        Self { templates: vec![("default".into(), template.into())], special }
    }

    /// Reads `chat_template.jinja`, else `chat_template.json`, else `chat_template` of `tokenizer_config.json`, which is a
    /// text or a list of `{name, template}`. `None` if the checkpoint has none (a base model).
    pub fn load(files: &Files) -> Result<Option<Self>> {
        let special = special_tokens(files)?;
        if let Some(text) = files.text("chat_template.jinja", MAX_TEMPLATE_BYTES)? {
            return Ok(Some(Self::new(text, special)));
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            let path = files.path(file);
            let config = files.json(file)?;
            let Some(found) = config.as_ref().and_then(|config| config.get("chat_template")).filter(|v| !v.is_null())
            else {
                continue;
            };
            let templates = match found {
                Value::String(text) => Some(vec![("default".to_owned(), text.clone())]),
                Value::Array(list) => list.iter().map(named_template).collect(),
                Value::Object(map) => {
                    map.iter().map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
                }
                _ => None,
            };
            let Some(templates) = templates.filter(|list| !list.is_empty()) else {
                let what = "`chat_template` must be a text or a list of {name, template}; fetch the file again";
                return Err(Error::malformed(&path, what));
            };
            return Ok(Some(Self { templates, special }));
        }
        Ok(None)
    }

    /// The template's text, of several the one named `default`, else the first.
    pub fn source(&self) -> &str {
        let named = self.templates.iter().find(|(name, _)| name == "default");
        named.or(self.templates.first()).map_or("", |(_, text)| text)
    }

    /// The prompt for a list of messages (`[{"role": ..., "content": ...}, ...]`). With tools the template named
    /// `tool_use` is taken where there is one.
    ///
    /// # Errors
    /// [`Error::Template`]: it does not parse, calls `raise_exception`, or uses up its fuel.
    pub fn render(&self, messages: &Value, options: &ChatOptions) -> Result<String> {
        let source = self.pick(options.tools.is_some())?;
        let n_operators = source.bytes().filter(|byte| b"+-*/%~<>=".contains(byte)).count();
        if source.len() as u64 > MAX_TEMPLATE_BYTES || n_operators > MAX_OPERATORS {
            return Err(Error::Template(format!(
                "{} bytes with {n_operators} operators; at most {MAX_TEMPLATE_BYTES} and {MAX_OPERATORS} are allowed",
                source.len()
            )));
        }
        let work = || {
            let source = without_generation_tags(source);
            let env = environment(options.now);
            // A name without an ending, so that nothing is escaped for HTML.
            let template = env.template_from_named_str("chat_template", &source).map_err(describe)?;
            let text = template.render(self.variables(messages, options)).map_err(describe)?;
            if options.continue_final_message { continued(text, messages) } else { Ok(text) }
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat-template".into()).stack_size(STACK_BYTES);
            let thread = thread.spawn_scoped(scope, work);
            let thread = thread.map_err(|error| Error::Template(format!("no thread to render it: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(Error::Template("the renderer panicked on it".into())))
        })
    }

    fn pick(&self, has_tools: bool) -> Result<&str> {
        let named = |name| self.templates.iter().find(|(found, _)| found == name);
        let found = named("tool_use").filter(|_| has_tools).or_else(|| named("default"));
        let only = || self.templates.first().filter(|_| self.templates.len() == 1);
        found.or_else(only).map(|(_, text)| text.as_str()).ok_or_else(|| {
            let names: Vec<_> = self.templates.iter().map(|(name, _)| name.as_str()).collect();
            Error::Template(format!("none is named `default`; there are {}", names.join(", ")))
        })
    }

    fn variables(&self, messages: &Value, options: &ChatOptions) -> JinjaValue {
        let mut variables = Map::new();
        for (role, text) in &self.special {
            variables.insert(role.clone(), Value::String(text.clone()));
        }
        variables.insert("messages".into(), messages.clone());
        variables.insert("tools".into(), options.tools.clone().unwrap_or(Value::Null));
        variables.insert("documents".into(), Value::Null);
        variables.insert(
            "add_generation_prompt".into(),
            Value::Bool(options.add_generation_prompt && !options.continue_final_message),
        );
        for (name, value) in &options.extra {
            variables.insert(name.clone(), value.clone());
        }
        JinjaValue::from(minijinja::value::Serde(&variables))
    }
}

/// The rendered text up to the end of the last message, as transformers cuts it: spaces at its end are kept if the template
/// keeps them.
fn continued(mut text: String, messages: &Value) -> Result<String> {
    let last = messages.as_array().and_then(|list| list.last()).and_then(|message| message["content"].as_str());
    let found = last.and_then(|last| Some((last, text.rfind(last.trim())?)));
    let Some((last, at)) = found else {
        return Err(Error::Template("it changes the last message, which therefore cannot be gone on with".into()));
    };
    let kept = if text[at..].starts_with(last.trim_start()) { last.trim_start() } else { last.trim() };
    text.truncate(at + kept.len());
    Ok(text)
}

fn named_template(entry: &Value) -> Option<(String, String)> {
    Some((entry.get("name")?.as_str()?.to_owned(), entry.get("template")?.as_str()?.to_owned()))
}

fn environment(now: DateTime) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> Result<JinjaValue, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", move |format: String| now.strftime(&format));
    env
}

/// The message with the place, and the reasons below it.
fn describe(error: minijinja::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    Error::Template(text)
}

/// transformers has a block `{% generation %}` that marks the assistant's text for training. It prints its body, so it
/// becomes an `if` that is always taken; the marks that trim white space stay.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = &tag[2..tag.len() - 2];
        let word = inner.trim_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
