//! The configuration's JSON schema, for editors and for what writes configurations: made of the key
//! table, as everything else that says what there is.

use serde_json::{Map, Value, json};

use super::keys::{KeyDefault, KeyInfo, Section, keys_of};

/// The schema of the file, read as JSON's types (draft 2020-12).
pub fn json_schema() -> Value {
    let entry = json!({
        "type": "object",
        "properties": properties(Section::Databases),
        "additionalProperties": false,
    });
    let connection_string = json!({
        "type": "string",
        "description": "A connection string as PgBouncer writes it.",
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgbaton",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "general": {
                "type": "object",
                "properties": properties(Section::General),
                "additionalProperties": false,
            },
            "databases": {
                "type": "object",
                "description": "The databases that clients may ask for; \"*\" is every other one.",
                "additionalProperties": { "anyOf": [entry, connection_string] },
            },
            "users": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": properties(Section::Users),
                    "additionalProperties": false,
                },
            },
        },
    })
}

fn properties(section: Section) -> Map<String, Value> {
    keys_of(section).map(|key| (key.name.to_owned(), property(key))).collect()
}

fn property(key: &KeyInfo) -> Value {
    let change =
        if key.reloadable { "A reload applies changes." } else { "Changes take a restart." };
    let absent = match key.default {
        KeyDefault::Value(_) => String::new(),
        KeyDefault::Absent(text) => format!(" Left out: {text}."),
    };
    let mut property = json!({
        // Numbers, durations, lists and booleans may all be written as text, too.
        "type": ["string", "number", "boolean", "array"],
        "description": format!("{} Values: {}.{absent} {change}", key.doc, key.range),
    });
    if let Some(default) = key.default_text().filter(|_| !key.secret) {
        property["default"] = default.into();
    }
    if key.secret {
        property["writeOnly"] = true.into();
    }
    property
}

#[cfg(test)]
mod tests {
    use super::super::keys;
    use super::*;

    #[test]
    fn it_has_every_key_and_no_other() {
        let schema = json_schema();
        let of = |section: Section| {
            let properties = &schema["properties"];
            match section {
                Section::General => &properties["general"],
                Section::Databases => &properties["databases"]["additionalProperties"]["anyOf"][0],
                Section::Users => &properties["users"]["additionalProperties"],
            }
        };
        for section in Section::ALL {
            let object = of(section);
            assert_eq!(object["additionalProperties"], false);
            let count = object["properties"].as_object().unwrap().len();
            assert_eq!(count, keys_of(section).count());
        }
        for key in keys() {
            let property = &of(key.section)["properties"][key.name];
            assert!(property["description"].as_str().unwrap().starts_with(key.doc), "{}", key.name);
            assert_eq!(property["writeOnly"] == true, key.secret);
        }
        assert_eq!(schema["additionalProperties"], false);
    }
}
