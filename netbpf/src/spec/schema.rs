//! What a file may say, for editors and for hints.

use serde_json::Value;

use super::Spec;

/// The JSON schema of a file that tells a network.
#[must_use]
pub fn schema() -> Value {
    schemars::schema_for!(Spec).into()
}

/// How a key is written, for example.
pub(super) fn example(key: &str) -> Option<String> {
    let schema = schema();
    let example = schema.get("properties")?.get(key)?.get("examples")?.get(0)?;
    // As far as examples go, TOML writes values as JSON does.
    Some(format!("{key} = {example}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Args as _;

    use super::*;

    #[test]
    fn files_have_a_key_for_each_option_and_no_other() {
        let command = Spec::augment_args(clap::Command::new("up"));
        let options: BTreeSet<String> =
            command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
        let schema = schema();
        let properties = schema["properties"].as_object().expect("properties");
        assert_eq!(options, properties.keys().cloned().collect());
        for (name, property) in properties {
            assert!(property["description"].is_string(), "{name}: {property}");
            assert!(example(name).is_some(), "{name}: {property}");
        }
        assert_eq!(schema["additionalProperties"], false);
    }

    #[test]
    fn examples_are_right() {
        let schema = schema();
        let names = schema["properties"].as_object().expect("properties").keys();
        for name in names {
            let line = example(name).expect("an example");
            toml::from_str::<Spec>(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
