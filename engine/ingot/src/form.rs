//! Answers of a form: the models' grammars as the runtime takes them.

use crate::language::Language;
use crate::vocabulary::made_up_tokenizer;
use crate::{Error, Model};
use ingot_models::text::grammar::{Grammar, GrammarState};
use ingot_models::text::tokenizer::Tokenizer;
use ingot_runtime::sample::Grammar as RuntimeGrammar;

#[derive(Clone, Debug)]
struct Form(GrammarState);

impl RuntimeGrammar for Form {
    fn allowed(&mut self, mask: &mut Vec<u32>) -> Result<(), String> {
        self.0.allowed(mask).map_err(|error| error.to_string())
    }
    fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.0.accept(id).map_err(|error| error.to_string())
    }
    fn fork(&self) -> Box<dyn RuntimeGrammar> {
        Box::new(self.clone())
    }
}

impl Model {
    /// The beginning of an answer of a form, for a [`ingot_runtime::world::Request`] or a [measurement](Model::measure_form).
    /// Here it tells whether a form is one:
    ///
    /// ```
    /// # use ingot::{DeviceChoice, Grammar, LoadOptions, Model};
    /// # let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    /// let model = Model::load("../../models/ingot-tales-1m".as_ref(), options)?;
    /// assert!(model.form(&Grammar::Regex("yes|no".into())).is_ok());
    /// assert!(model.form(&Grammar::Regex("[a-".into())).is_err());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the form is malformed, or the model's tokens cannot be held to one.
    pub fn form(&self, grammar: &Grammar) -> Result<Box<dyn RuntimeGrammar>, Error> {
        self.language.form(grammar, self.world.plan.n_vocab)
    }

    /// The same in a [made-up vocabulary](made_up_tokenizer) of the model's size: for measurements of models with random weights, which have
    /// no tokenizer.
    ///
    /// ```
    /// use ingot::{Grammar, LoadOptions, Model, RandomShape};
    ///
    /// # let cpu = LoadOptions { device: ingot::DeviceChoice::Cpu, ..LoadOptions::default() };
    /// let shape = RandomShape { n_layers: 1, ..RandomShape::named("smollm2-135m")? };
    /// let model = Model::load_random(&shape, cpu)?;
    /// let grammar = Grammar::Regex("[a-z ]*".into());
    /// assert!(model.form(&grammar).is_err());
    /// assert!(model.made_up_form(&grammar).is_ok());
    /// # Ok::<(), ingot::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the form is malformed.
    pub fn made_up_form(&self, grammar: &Grammar) -> Result<Box<dyn RuntimeGrammar>, Error> {
        let n_vocab = self.world.plan.n_vocab;
        begin(&made_up_tokenizer(n_vocab)?, grammar, n_vocab)
    }
}

impl Language {
    /// The beginning of an answer of a form, for a model with so many ids.
    pub(crate) fn form(&self, grammar: &Grammar, n_vocab: u32) -> Result<Box<dyn RuntimeGrammar>, Error> {
        begin(self.tokenizer()?, grammar, n_vocab)
    }
}

/// The beginning of an answer of a form, in a tokenizer's tokens.
fn begin(tokenizer: &Tokenizer, grammar: &Grammar, n_vocab: u32) -> Result<Box<dyn RuntimeGrammar>, Error> {
    Ok(Box::new(Form(tokenizer.begin(grammar, n_vocab)?)))
}
