//! One TOML file to settings, each with its line and column.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{Origin, Value};
use super::table::{Form, SETTINGS, Setting};
use super::{ConfigError, error};

/// Parses `text`; an unknown key or a value of the wrong type is refused with its place.
pub(super) fn settings(
    path: &Path,
    text: &str,
) -> Result<Vec<(&'static Setting, Value, Origin)>, ConfigError> {
    let place = Place { path, text };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        origin: place.at(error.span().unwrap_or(0..0)),
        problem: error.message().to_owned(),
    })?;
    let mut written = Vec::new();
    for (key, value) in document.get_ref() {
        let name = key.get_ref().as_ref();
        match value.get_ref() {
            DeValue::Table(section) if is_section(name) => {
                let full = |key: &str| format!("{name}.{key}");
                written.extend(section.iter().map(|(key, value)| (key.span(), full(key.get_ref()), value)));
            }
            _ => written.push((key.span(), name.to_owned(), value)),
        }
    }
    // Of several mistakes the first is told.
    written.sort_by_key(|(span, ..)| span.start);
    written.into_iter().map(|(span, key, value)| place.take(&key, span, value)).collect()
}

fn is_section(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == name))
}

struct Place<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Place<'_> {
    fn take(
        &self,
        key: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(&'static Setting, Value, Origin), ConfigError> {
        let Some(setting) = Setting::find(key) else {
            let nearest = error::nearest(key, known_keys());
            return Err(ConfigError::UnknownKey { key: key.to_owned(), origin: self.at(span), nearest });
        };
        let wrong = |expected: &str, got: &Spanned<DeValue<'_>>| ConfigError::Value {
            key: setting.key,
            origin: self.at(got.span()),
            problem: format!("expected {expected}, found {}", kind(got.get_ref())),
        };
        let value_read = match (setting.form, value.get_ref()) {
            (Form::Text, DeValue::String(text)) => Value::Text(text.to_string()),
            (Form::Text, _) => return Err(wrong("a text", value)),
            (Form::Number, DeValue::Integer(digits)) => {
                // The parser hands over the digits without underscores and prefix.
                match i64::from_str_radix(digits.as_str(), digits.radix()) {
                    Ok(number) => Value::Number(number),
                    Err(_) => return Err(wrong("a whole number of 64 bits", value)),
                }
            }
            (Form::Number, _) => return Err(wrong("a whole number", value)),
            (Form::Switch, DeValue::Boolean(switch)) => Value::Switch(*switch),
            (Form::Switch, _) => return Err(wrong("true or false", value)),
            (Form::List, DeValue::Array(items)) => {
                let item = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                    DeValue::String(text) => Ok(text.to_string()),
                    _ => Err(wrong("a list of texts", item)),
                };
                Value::List(items.iter().map(item).collect::<Result<_, _>>()?)
            }
            (Form::List, _) => return Err(wrong("a list of texts", value)),
        };
        Ok((setting, value_read, self.at(value.span())))
    }

    fn at(&self, span: Range<usize>) -> Origin {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Origin::File { path: self.path.to_owned(), line, column }
    }
}

/// Keys as a file may write them, and the sections, for a misspelt section.
fn known_keys() -> impl Iterator<Item = String> {
    let sections =
        SETTINGS.iter().filter_map(|setting| setting.key.split_once('.')).map(|(section, _)| section);
    SETTINGS.iter().map(|setting| setting.key).chain(sections).map(str::to_owned)
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
