//! From an operation of a document to one that can be offered, or to the words why it cannot.

use std::collections::{BTreeMap, BTreeSet};

use super::component::Components;
use super::convert::{Converter, cut, quoted};
use super::template::{self, Piece, Segment};
use super::{ANSWER_SCHEMA_BYTES_MAX, Choice, Found, Lists, Operation, Parameter, Place, Requirement, SCHEMA_BYTES_MAX, cleaned};
use crate::json::{Limits, Raw, RawBuf};
use crate::schema::Schema;

/// Most parameters of one operation.
const PARAMETERS_MAX: usize = 100;
/// Longest name of a parameter, in bytes.
const NAME_MAX: usize = 128;
/// The description of an operation, in characters.
const DESCRIPTION_MAX: usize = 2_000;
/// The member of the arguments that is the body.
pub(super) const BODY: &str = "body";

/// Headers that belong to the connection, to us, or change what the request means to some server (RFC 9110 section 7.6.1; OpenAPI 3.1
/// section 4.8.12.2.1 has the first three).
const HEADERS_NOT_GIVEN: [&str; 35] = [
    "accept",
    "content-type",
    "authorization",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];
/// Parameters of the query that turn one method into another for some servers.
const QUERY_NOT_GIVEN: [&str; 3] = ["_method", "_HttpMethod", "X-HTTP-Method-Override"];

pub(super) fn parse<'d>(
    found: &Found<'d>,
    choice: &Choice<'_>,
    components: &Components<'d>,
    requests: &mut Converter<'_, 'd>,
    answers: &mut Converter<'_, 'd>,
) -> Result<Operation, String> {
    let segments = template::parse(&found.path)?;
    let mut input = Input::default();
    for ((place, name), raw) in declared(found, components)? {
        input.parameter(&place, &name, raw, choice, components, requests)?;
    }
    in_template(&segments, &input.parameters)?;
    let body = input.body(found, components, requests)?;
    let (schema, buffer) = input.schema(requests)?;
    let text = |name: &str, max| found.raw.member(name).and_then(Raw::string).map(|text| cut(&text, max)).filter(|text| !text.trim().is_empty());
    Ok(Operation {
        name: found.name.clone(),
        method: found.method,
        path: found.path.clone(),
        segments,
        parameters: input.parameters,
        body,
        title: text("summary", 200),
        description: text("description", DESCRIPTION_MAX),
        input: buffer,
        schema,
        // An answer's schema only helps the model: one that cannot be told is not told.
        answer: answer(found, components, answers).ok().flatten(),
        left_out: input.left_out,
    })
}

/// The parameters of the path item, replaced by those of the operation where both have one.
fn declared<'d>(found: &Found<'d>, components: &Components<'d>) -> Result<BTreeMap<(String, String), Raw<'d>>, String> {
    let mut all = BTreeMap::new();
    for owner in [found.item, found.raw] {
        for raw in owner.member("parameters").into_iter().flat_map(Raw::elements) {
            let raw = components.resolve(raw)?;
            let text = |name: &str| raw.member(name).and_then(Raw::string).map(|text| text.into_owned());
            let (Some(place), Some(name)) = (text("in"), text("name")) else { return Err("it has a parameter without name or place".to_owned()) };
            if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
                return Err("it has a parameter whose name is empty, too long or has control characters".to_owned());
            }
            all.insert((place, name), raw);
            if all.len() > PARAMETERS_MAX {
                return Err(format!("it has more than {PARAMETERS_MAX} parameters"));
            }
        }
    }
    Ok(all)
}

/// Every parameter of the path stands in the template, and every one of the template is declared.
fn in_template(segments: &[Segment], parameters: &[Parameter]) -> Result<(), String> {
    let named: Vec<&str> =
        segments.iter().flatten().filter_map(|piece| if let Piece::Parameter(name) = piece { Some(name.as_str()) } else { None }).collect();
    let known: BTreeSet<&str> = parameters.iter().filter(|p| p.place == Place::Path).map(|p| p.name.as_str()).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(*name)) {
        return Err(format!("its path has the parameter `{unknown}`, which it does not describe"));
    }
    if let Some(absent) = known.iter().find(|name| !named.contains(name)) {
        return Err(format!("its parameter `{absent}` does not stand in the path"));
    }
    Ok(())
}

/// The arguments of one operation, as they come together.
#[derive(Default)]
struct Input {
    parameters: Vec<Parameter>,
    /// `"name":{..}`, each.
    properties: Vec<String>,
    required: Vec<String>,
    refers: BTreeSet<String>,
    left_out: BTreeSet<String>,
}

impl Input {
    fn parameter<'d>(
        &mut self,
        place: &str,
        name: &str,
        raw: Raw<'d>,
        choice: &Choice<'_>,
        components: &Components<'d>,
        requests: &mut Converter<'_, 'd>,
    ) -> Result<(), String> {
        let required = raw.member("required").and_then(Raw::boolean) == Some(true) || place == "path";
        let set_by_us = |names: &[&str]| names.iter().any(|ours| ours.eq_ignore_ascii_case(name));
        if components.is_credential(place, name) {
            return self.leave_out(name, false);
        }
        let (place, given) = match place {
            "path" => (Place::Path, true),
            "query" if set_by_us(choice.query) => return self.leave_out(name, false),
            "query" => (Place::Query, !set_by_us(&QUERY_NOT_GIVEN)),
            "header" if set_by_us(choice.headers) || set_by_us(&["accept", "content-type", "authorization"]) => return self.leave_out(name, false),
            "header" => (Place::Header, !set_by_us(&HEADERS_NOT_GIVEN) && is_field_name(name)),
            "cookie" => return self.leave_out(name, required),
            _ => return Err(format!("its parameter `{name}` stands in a place that is not known")),
        };
        if !given {
            return self.leave_out(name, required);
        }
        let lists = lists(raw, name, place)?;
        let schema = raw.member("schema").ok_or_else(|| format!("its parameter `{name}` has no `schema`"))?;
        if is_object(components.resolve(schema)?) {
            return Err(format!("its parameter `{name}` is an object: how such are written differs between servers"));
        }
        let argument = cleaned(name);
        if argument.is_empty() || argument == BODY || self.parameters.iter().any(|other| other.argument == argument) {
            return Err(format!("its parameter `{name}` has the name of another argument, or none that can be used"));
        }
        let description = raw.member("description").and_then(Raw::string);
        let converted = requests.schema(schema, description.as_deref())?;
        self.property(&argument, &converted.text, required);
        self.refers.extend(converted.refers);
        self.parameters.push(Parameter { argument, name: name.to_owned(), place, lists });
        Ok(())
    }

    fn leave_out(&mut self, name: &str, required: bool) -> Result<(), String> {
        if required {
            return Err(format!("it needs `{name}`, which is a cookie or a name that is never given by arguments"));
        }
        self.left_out.insert(name.to_owned());
        Ok(())
    }

    fn property(&mut self, argument: &str, schema: &str, required: bool) {
        self.properties.push(format!("{}:{schema}", quoted(argument)));
        if required {
            self.required.push(quoted(argument));
        }
    }

    fn body<'d>(&mut self, found: &Found<'d>, components: &Components<'d>, requests: &mut Converter<'_, 'd>) -> Result<Option<Requirement>, String> {
        let Some(raw) = found.raw.member("requestBody") else { return Ok(None) };
        let raw = components.resolve(raw)?;
        let required = raw.member("required").and_then(Raw::boolean) == Some(true);
        let Some(media) = json_of(raw.member("content")) else {
            return if required { Err("its body is not `application/json`".to_owned()) } else { Ok(None) };
        };
        if matches!(found.method, super::Method::Get | super::Method::Head) {
            return if required { Err("it needs a body with a method that has none".to_owned()) } else { Ok(None) };
        }
        let schema = media.member("schema").unwrap_or(Raw::EMPTY_OBJECT);
        let description = raw.member("description").and_then(Raw::string);
        let converted = requests.schema(schema, description.as_deref())?;
        self.property(BODY, &converted.text, required);
        self.refers.extend(converted.refers);
        Ok(Some(if required { Requirement::Required } else { Requirement::Optional }))
    }

    fn schema(&self, requests: &mut Converter<'_, '_>) -> Result<(Schema, RawBuf), String> {
        let definitions = requests.definitions(&self.refers, SCHEMA_BYTES_MAX)?;
        let definitions = if definitions.is_empty() { definitions } else { format!(",{definitions}") };
        let text = format!(
            "{{\"type\":\"object\",\"properties\":{{{}}},\"required\":[{}],\"additionalProperties\":false{definitions}}}",
            self.properties.join(","),
            self.required.join(",")
        );
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(format!("its schema is longer than {SCHEMA_BYTES_MAX} bytes"));
        }
        let raw = Raw::parse(text.as_bytes(), &Limits::REPLY).map_err(|error| format!("its schema cannot be used: {error}"))?;
        let schema = Schema::compile(raw).map_err(|error| format!("its schema cannot be used: {error}"))?;
        Ok((schema, raw.to_owned()))
    }
}

/// How lists are written: `simple` in paths and headers, `form` in queries. Other styles are refused.
fn lists(raw: Raw<'_>, name: &str, place: Place) -> Result<Lists, String> {
    let usual = if place == Place::Query { "form" } else { "simple" };
    if raw.member("content").is_some() {
        return Err(format!("its parameter `{name}` is a document of its own (`content`)"));
    }
    if raw.member("style").and_then(Raw::string).is_some_and(|style| style != usual) {
        return Err(format!("its parameter `{name}` has a style other than `{usual}`"));
    }
    let explode = raw.member("explode").and_then(Raw::boolean).unwrap_or(place == Place::Query);
    Ok(if explode && place == Place::Query { Lists::Repeated } else { Lists::Commas })
}

fn is_object(schema: Raw<'_>) -> bool {
    let is = |kind: Raw<'_>| kind.string().as_deref() == Some("object");
    schema.member("properties").is_some() || schema.member("type").is_some_and(|kind| is(kind) || kind.elements().any(is))
}

/// A field name of RFC 9110 section 5.6.2.
fn is_field_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The JSON among the media types of a body.
fn json_of<'d>(content: Option<Raw<'d>>) -> Option<Raw<'d>> {
    let is_json = |name: &str| name.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json");
    content?.members().find_map(|(name, media)| is_json(&name).then_some(media))
}

/// The schema of the answer in JSON that a success has, with its definitions, if it is short.
fn answer<'d>(found: &Found<'d>, components: &Components<'d>, answers: &mut Converter<'_, 'd>) -> Result<Option<RawBuf>, String> {
    let responses: BTreeMap<_, _> = found.raw.member("responses").into_iter().flat_map(Raw::members).collect();
    let Some(response) = ["200", "201", "202", "203", "2XX", "2xx"].iter().find_map(|status| responses.get(*status)) else { return Ok(None) };
    let Some(schema) = json_of(components.resolve(*response)?.member("content")).and_then(|media| media.member("schema")) else { return Ok(None) };
    let converted = answers.schema(schema, None)?;
    let definitions = answers.definitions(&converted.refers, ANSWER_SCHEMA_BYTES_MAX)?;
    let Some(head) = converted.text.strip_suffix('}') else { return Ok(None) };
    let text = match (head, definitions.as_str()) {
        (_, "") => converted.text,
        ("{", definitions) => format!("{{{definitions}}}"),
        (head, definitions) => format!("{head},{definitions}}}"),
    };
    if text.len() > ANSWER_SCHEMA_BYTES_MAX {
        return Ok(None);
    }
    let raw = Raw::parse(text.as_bytes(), &Limits::REPLY).map_err(|error| error.to_string())?;
    Ok(Some(raw.to_owned()))
}
