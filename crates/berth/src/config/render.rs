//! The configuration as TOML, for people.

use super::ConfigError;
use super::settings::{Settings, Sources, Value};
use super::table::{SETTINGS, Setting};

const WIDTH: usize = 100;

/// The default file: every setting with its meaning and its default, commented out, so that a copy changes nothing
/// and keeps following what it follows.
pub(crate) fn default_text() -> Result<String, ConfigError> {
    // Files that happen to be on this machine are no part of it.
    let nothing = Sources { file: Some("/dev/null".into()), ..Sources::default() };
    let settings = Settings::gather(&nothing)?;
    let mut text = String::from(
        "# Berth's settings with their defaults. Uncomment what you change.\n\
         #\n\
         # Read in this order, the later wins: /etc/berth/config.toml, /etc/berth/conf.d/*.toml by name, the environment\n\
         # (BERTH_SECTION_KEY), flags (--section-key). `berth config dump` shows what holds and where it came from.\n",
    );
    let mut section = None;
    for setting in SETTINGS {
        heading(&mut text, &mut section, setting);
        for line in wrap(setting.help, WIDTH) {
            text += &format!("# {line}\n");
        }
        text += &format!("#{} = {}\n", local(setting), literal(&settings, setting));
    }
    Ok(text)
}

/// What holds, with the origin of each value.
pub(crate) fn dump(settings: &Settings) -> String {
    let mut text = String::new();
    let mut section = None;
    for setting in SETTINGS {
        if setting.key.contains('.') {
            heading(&mut text, &mut section, setting);
        }
        let origin = settings.get(setting.key).map(|(_, origin)| origin.to_string()).unwrap_or_default();
        let line = format!("{} = {}", local(setting), literal(settings, setting));
        text += &format!("{line:<48} # {origin}\n");
    }
    text
}

fn heading(text: &mut String, section: &mut Option<&'static str>, setting: &Setting) {
    let of = setting.key.split_once('.').map(|(section, _)| section);
    text.push('\n');
    if of != *section {
        *section = of;
        *text += &of.map(|name| format!("[{name}]\n")).unwrap_or_default();
    }
}

fn local(setting: &Setting) -> &'static str {
    setting.key.rsplit('.').next().unwrap_or_default()
}

fn literal(settings: &Settings, setting: &Setting) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    match settings.get(setting.key) {
        Some((Value::Text(text), _)) => quoted(text),
        Some((Value::Number(number), _)) => number.to_string(),
        Some((Value::Switch(switch), _)) => switch.to_string(),
        Some((Value::List(items), _)) => {
            format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
        }
        None => quoted(""),
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
