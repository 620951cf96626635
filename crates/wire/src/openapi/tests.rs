//! Tests of documents and requests: what is offered, what is refused with words, and that no argument leaves its place.
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ALL: &dyn Fn(&str) -> bool = &|_| true;

fn choice() -> Choice<'static> {
    Choice { wanted: ALL, headers: &[], query: &[] }
}

fn parse(document: &Value) -> Result<Document, DocumentError> {
    Document::parse(document.to_string().as_bytes(), &choice())
}

fn document(paths: Value) -> Value {
    json!({ "openapi": "3.1.0", "info": { "title": "t", "version": "1" }, "paths": paths })
}

/// The one operation of a document.
fn only(document: &Value) -> Operation {
    let document = parse(document).unwrap();
    assert_eq!(document.skipped(), [], "skipped");
    assert_eq!(document.operations().len(), 1);
    document.operations()[0].clone()
}

/// Why the one operation of a document is skipped.
fn skipped(operation: Value) -> String {
    let document = parse(&document(json!({ "/x/{id}": { "post": operation } }))).unwrap();
    assert!(document.operations().is_empty());
    document.skipped()[0].why.clone()
}

fn id() -> Value {
    json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } })
}

fn request(operation: &Operation, arguments: &Value) -> Result<Request, RequestError> {
    let text = arguments.to_string();
    operation.request(Raw::parse(text.as_bytes(), &Limits::REQUEST).unwrap())
}

fn schema_of(operation: &Operation) -> Value {
    serde_json::from_str(operation.input_schema().text()).unwrap()
}

#[test]
fn an_operation_becomes_a_tool_and_a_call_of_it_a_request() {
    let operation = only(&document(json!({ "/orders/{orderId}/notes": {
        "parameters": [{ "name": "orderId", "in": "path", "required": true, "schema": { "type": "integer" }, "description": "Which order." }],
        "post": {
            "operationId": "orders/addNote", "summary": "Add a note", "description": "Adds a note to an order.",
            "parameters": [
                { "name": "tag", "in": "query", "schema": { "type": "array", "items": { "type": "string" } } },
                { "name": "fields", "in": "query", "explode": false, "schema": { "type": "array", "items": { "type": "string" } } },
                { "name": "X-Reason", "in": "header", "schema": { "type": "string" } },
                { "name": "dry run", "in": "query", "schema": { "type": "boolean" } },
            ],
            "requestBody": { "required": true, "content": { "application/json; charset=utf-8": { "schema": {
                "type": "object", "required": ["text"], "properties": { "text": { "type": "string" }, "id": { "type": "integer", "readOnly": true } } } } } },
            "responses": { "200": { "description": "ok", "content": { "application/json": { "schema": { "type": "object", "properties": { "id": {} } } } } } },
        } } })));
    assert_eq!((operation.name(), operation.method(), operation.path()), ("orders_addNote", Method::Post, "/orders/{orderId}/notes"));
    assert_eq!((operation.title(), operation.description()), (Some("Add a note"), Some("Adds a note to an order.")));
    assert_eq!(operation.answer_schema().unwrap().text(), r#"{"type":"object","properties":{"id":{}}}"#);
    let schema = schema_of(&operation);
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["orderId"], json!({ "type": "integer", "description": "Which order." }));
    assert_eq!(schema["required"], json!(["orderId", "body"]));
    let asked = json!({ "text": { "type": "string" }, "id": { "not": {} } });
    assert_eq!(schema["properties"]["body"]["properties"], asked, "what only answers have is not asked for");
    let given = json!({ "orderId": 7, "body": { "text": "hi", "id": 1 } });
    assert!(request(&operation, &given).is_err(), "and is refused if it is given all the same");
    let arguments =
        json!({ "orderId": 7, "tag": ["a&b", "c d"], "fields": ["x", "y,z"], "X-Reason": "because, yes", "dry_run": true, "body": { "text": "hi" } });
    let request = request(&operation, &arguments).unwrap();
    assert_eq!(request.target, "/orders/7/notes?dry%20run=true&fields=x,y%2Cz&tag=a%26b&tag=c%20d");
    assert_eq!(request.headers, [("X-Reason".to_owned(), "because, yes".to_owned())]);
    assert_eq!(request.body.as_deref(), Some(r#"{"text":"hi"}"#));
    assert!(!format!("{request:?}").contains("hi"), "a request's debug form has no values");
}

#[test]
fn arguments_that_do_not_fit_are_refused_without_being_repeated() {
    let operation =
        only(&document(json!({ "/x/{id}": { "post": { "parameters": [id(), { "name": "n", "in": "query", "schema": { "type": "number" } },
        { "name": "H", "in": "header", "schema": {} }] } } })));
    for (arguments, words) in [
        (json!({}), "must have the property `id`"),
        (json!({ "id": 1 }), "must be a string"),
        (json!({ "id": "a", "secret-canary": 1 }), "secret-canary"),
        (json!({ "id": "" }), "must not be empty"),
        (json!({ "id": "../canary" }), "`id` must not have a `/`"),
        (json!({ "id": "a", "n": 1e300 }), "exponent"),
        (json!({ "id": "a", "H": "a\r\nX: canary" }), "printable ASCII"),
        (json!({ "id": "a", "H": { "canary": 1 } }), "must be text"),
        (json!({ "id": "a", "H": "canary ".repeat(1000) + "x" }), "too long"),
    ] {
        let error = request(&operation, &arguments).unwrap_err().to_string();
        assert!(error.contains(words), "{arguments}: {error}");
        assert!(!error.replace("secret-canary", "").contains("canary"), "{error}");
    }
}

#[test]
fn what_cannot_be_offered_safely_is_skipped_with_words() {
    let query = |more: Value| {
        let mut parameter = json!({ "name": "q", "in": "query", "schema": { "type": "string" } });
        parameter.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "parameters": [id(), parameter] })
    };
    for (operation, words) in [
        (json!({}), "does not describe"),
        (query(json!({ "style": "deepObject" })), "style other than `form`"),
        (query(json!({ "style": "pipeDelimited" })), "style other than `form`"),
        (query(json!({ "content": {} })), "document of its own"),
        (query(json!({ "schema": { "type": "object" } })), "is an object"),
        (query(json!({ "schema": { "type": ["string", "object"] } })), "is an object"),
        (query(json!({ "in": "cookie", "required": true })), "cookie"),
        (query(json!({ "in": "body" })), "a place that is not known"),
        (query(json!({ "in": "path" })), "does not stand in the path"),
        (query(json!({ "in": "header", "name": "Host", "required": true })), "never given by arguments"),
        (query(json!({ "in": "header", "name": "x-http-method-override", "required": true })), "never given by arguments"),
        (query(json!({ "name": "_method", "required": true })), "never given by arguments"),
        (query(json!({ "name": "body" })), "the name of another argument"),
        (query(json!({ "name": "id" })), "the name of another argument"),
        (query(json!({ "schema": { "$ref": "https://evil.example/schema.json" } })), "never fetched"),
        (query(json!({ "schema": { "$ref": "#/components/schemas/None" } })), "leads nowhere"),
        (query(json!({ "schema": { "$dynamicRef": "#a" } })), "not supported"),
        (query(json!({ "schema": { "type": "file" } })), "cannot be used"),
        (json!({ "parameters": [id()], "requestBody": { "required": true, "content": { "multipart/form-data": {} } } }), "not `application/json`"),
        (json!({ "parameters": [{ "$ref": "other.json#/x" }] }), "never fetched"),
    ] {
        let why = skipped(operation.clone());
        assert!(why.contains(words), "{operation}: {why}");
    }
    for (path, words) in [
        ("x", "begin with `/`"),
        ("/a//b", "empty segment"),
        ("/a/../b", "`.` or `..`"),
        ("/a?b=c", "`?`"),
        ("/a/{x", "without `}`"),
        ("/a%2fb", "mean differently"),
        ("/{a}{b}", "side by side"),
    ] {
        let document = parse(&document(json!({ path: { "get": {} } }))).unwrap();
        assert!(document.skipped()[0].why.contains(words), "{path}: {:?}", document.skipped());
    }
}

#[test]
fn what_is_optional_and_cannot_be_given_is_left_out_and_named() {
    let document = document(json!({ "/x": { "get": { "parameters": [
        { "name": "session", "in": "cookie", "schema": {} }, { "name": "X-Forwarded-For", "in": "header", "schema": {} },
        { "name": "api_key", "in": "query", "required": true, "schema": {} }, { "name": "X-Api-Key", "in": "header", "required": true, "schema": {} },
        { "name": "Authorization", "in": "header", "required": true, "schema": {} }, { "name": "q", "in": "query", "schema": {} },
    ] } } }));
    let mut document = document;
    document["components"] =
        json!({ "securitySchemes": { "k": { "type": "apiKey", "in": "header", "name": "x-api-key" }, "b": { "type": "http", "scheme": "bearer" } } });
    let choice = Choice { wanted: ALL, headers: &["authorization"], query: &["api_key"] };
    let document = Document::parse(document.to_string().as_bytes(), &choice).unwrap();
    let operation = &document.operations()[0];
    assert_eq!(operation.left_out().collect::<Vec<_>>(), ["Authorization", "X-Api-Key", "X-Forwarded-For", "api_key", "session"]);
    assert_eq!(schema_of(operation)["properties"], json!({ "q": {} }));
    assert_eq!(request(operation, &json!({ "q": "x" })).unwrap().target, "/x?q=x");
}

#[test]
fn names_are_clean_and_two_of_one_name_are_refused_by_name() {
    let two = document(json!({ "/a": { "get": { "operationId": "do it" } }, "/b": { "put": { "operationId": "do.it" } } }));
    let error = parse(&two).unwrap_err();
    assert_eq!(error, DocumentError::SameName { name: "do_it".into(), one: "GET /a".into(), other: "PUT /b".into() });
    let none = Choice { wanted: &|name| name != "do_it", ..choice() };
    assert!(Document::parse(two.to_string().as_bytes(), &none).unwrap().operations().is_empty(), "what is not wanted is not in the way");
    let long = |end: &str| json!({ "get": { "operationId": format!("{}{end}", "relationships-of-".repeat(8)) } });
    let two = parse(&document(json!({ "/a": long("one"), "/b": long("two") }))).unwrap();
    let names: Vec<&str> = two.operations().iter().map(Operation::name).collect();
    assert!(names[0] != names[1] && names.iter().all(|name| name.len() == 64 && name.starts_with("relationships-of-")), "{names:?}");
    let unnamed = only(&document(json!({ "/pets/{pet-id}.json": { "get": { "operationId": "\u{202e}", "parameters":
        [{ "name": "pet-id", "in": "path", "schema": {} }] } } })));
    assert_eq!(unnamed.name(), "get_pets_pet-id_json");
    assert_eq!(request(&unnamed, &json!({ "pet-id": "a.b" })).unwrap().target, "/pets/a.b.json");
}

#[test]
fn references_are_resolved_inside_the_document_also_in_circles() {
    let mut document = document(json!({ "/x": { "$ref": "#/components/pathItems/x" } }));
    document["components"] = json!({
        "pathItems": { "x": { "post": { "operationId": "x", "parameters": [{ "$ref": "#/components/parameters/p" }],
            "requestBody": { "$ref": "#/components/requestBodies/b" } } } },
        "parameters": { "p": { "name": "p", "in": "query", "schema": { "$ref": "#/components/schemas/Colour" } } },
        "requestBodies": { "b": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/a~1Tree" } } } } },
        "schemas": {
            "Colour": { "type": "string", "enum": ["red", "blue"] },
            "a/Tree": { "type": "object", "properties": { "children": { "type": "array", "items": { "$ref": "#/components/schemas/a~1Tree" } },
                "colour": { "$ref": "#/components/schemas/Colour" }, "odd": { "$ref": "#/components/requestBodies/b/content/application~1json/schema" } } },
            "Unused": { "$ref": "elsewhere.json" },
        },
    });
    let operation = only(&document);
    let names: std::collections::BTreeSet<_> = schema_of(&operation)["$defs"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(names, ["Colour", "a_1Tree", "schema"].map(str::to_owned).into());
    let tree = json!({ "children": [{ "children": [], "colour": "red" }] });
    assert!(request(&operation, &json!({ "p": "blue", "body": tree })).is_ok());
    assert!(request(&operation, &json!({ "body": { "children": [{ "colour": "green" }] } })).is_err());
    assert!(request(&operation, &json!({ "body": { "children": [{ "smuggled": 1 }] } })).is_err(), "silent objects are closed");
}

#[test]
fn a_circle_of_references_ends() {
    let mut circle = document(json!({ "/x": { "get": { "parameters": [{ "$ref": "#/components/parameters/a" }] } } }));
    circle["components"] = json!({ "parameters": { "a": { "$ref": "#/components/parameters/b" }, "b": { "$ref": "#/components/parameters/a" } } });
    assert!(parse(&circle).unwrap().skipped()[0].why.contains("circles"));
    let mut schema = document(
        json!({ "/x": { "post": { "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/a" } } } } } } }),
    );
    schema["components"] = json!({ "schemas": { "a": { "allOf": [{ "$ref": "#/components/schemas/a" }] } } });
    assert!(request(&only(&schema), &json!({ "body": 1 })).is_err(), "a value that is checked in circles is refused");
}

#[test]
fn keywords_of_openapi_3_0_become_json_schema() {
    let mut document = document(json!({ "/x": { "get": { "parameters": [
        { "name": "n", "in": "query", "schema": { "type": "integer", "minimum": 1, "exclusiveMinimum": true, "maximum": 9, "exclusiveMaximum": false } },
        { "name": "s", "in": "query", "schema": { "type": "string", "nullable": true, "example": "x", "xml": {}, "x-mcp-header": "Evil" } },
        { "name": "r", "in": "query", "schema": { "$ref": "#/components/schemas/R", "type": "integer" } },
    ] } } }));
    document["openapi"] = json!("3.0.3");
    document["components"] = json!({ "schemas": { "R": { "type": "string" } } });
    let operation = only(&document);
    let properties = &schema_of(&operation)["properties"];
    assert_eq!(properties["n"], json!({ "type": "integer", "exclusiveMinimum": 1, "maximum": 9 }));
    assert_eq!(properties["s"], json!({ "type": ["string", "null"] }));
    assert_eq!(properties["r"], json!({ "$ref": "#/$defs/R" }), "in 3.0 nothing beside a reference counts");
    assert!(request(&operation, &json!({ "n": 1 })).is_err());
    assert_eq!(request(&operation, &json!({ "n": 9, "r": "a" })).unwrap().target, "/?n=9&r=a".replace("/?", "/x?"));
}

#[test]
fn what_is_no_document_of_a_known_version_is_refused_with_words() {
    let yaml = Document::parse(b"openapi: 3.1.0\npaths: {}\n", &choice()).unwrap_err();
    assert!(yaml.to_string().contains("YAML"), "{yaml}");
    for version in [json!("2.0"), json!("4.0.0"), json!("3.1"), json!(3.1), Value::Null] {
        assert_eq!(parse(&json!({ "openapi": version, "paths": {} })).unwrap_err(), DocumentError::Version);
    }
    assert_eq!(parse(&json!({ "openapi": "3.0.0", "paths": [] })).unwrap_err(), DocumentError::Object("/paths".into()));
    assert!(parse(&json!({ "openapi": "3.0.0" })).unwrap().operations().is_empty());
}

#[test]
fn a_document_has_limits() {
    let many = |count: usize| document((0..count).map(|n| (format!("/p{n}"), json!({ "get": {} }))).collect::<serde_json::Map<_, _>>().into());
    assert_eq!(parse(&many(TAKEN_MAX + 1)).unwrap_err(), DocumentError::Taken);
    let few = Choice { wanted: &|name| name == "get_p7", ..choice() };
    assert_eq!(Document::parse(many(OPERATIONS_MAX).to_string().as_bytes(), &few).unwrap().operations().len(), 1);
    assert_eq!(Document::parse(many(OPERATIONS_MAX + 1).to_string().as_bytes(), &few).unwrap_err(), DocumentError::Operations);
    // A schema that doubles at each of thirty references stays as small as it is written.
    let mut doubling = document(
        json!({ "/x": { "post": { "requestBody": { "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/s0" } } } } } } }),
    );
    let schemas = (0..30).map(|n| (format!("s{n}"), json!({ "properties": { "a": { "$ref": format!("#/components/schemas/s{}", n + 1) }, "b": { "$ref": format!("#/components/schemas/s{}", n + 1) } } })));
    doubling["components"] = json!({ "schemas": schemas.chain([("s30".to_owned(), json!(true))]).collect::<serde_json::Map<_, _>>() });
    assert!(only(&doubling).input_schema().text().len() < 8_000);
    let big = json!({ "parameters": [id()], "requestBody": { "required": true, "content": { "application/json": { "schema": { "enum": ["x".repeat(SCHEMA_BYTES_MAX)] } } } } });
    assert!(skipped(big).contains("longer than"));
    let mut deep = json!({});
    (0..25).for_each(|_| deep = json!({ "items": deep }));
    assert!(
        skipped(json!({ "parameters": [id()], "requestBody": { "required": true, "content": { "application/json": { "schema": deep } } } }))
            .contains("deeper")
    );
}

/// Values of every kind of mischief, and ordinary ones.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]{1,12}",
        "\\PC{1,20}",
        "[./\\\\%;?#&=+ ,:@a-z0-9]{1,12}",
        "(%(25){0,3}(2[ef]|5c|00|0d|0a)){1,3}",
        Just("..".to_owned()),
        Just("https://evil.example/".to_owned()),
        Just("@evil.example".to_owned()),
        Just("//evil.example".to_owned()),
    ]
}

proptest! {
    /// The base, and as many segments as the template, each with what was given and nothing else, whatever the values are.
    #[test]
    fn a_built_url_has_the_origin_the_segments_and_the_values_that_it_was_built_from(
        a in value(), b in value(), q in value(), list in proptest::collection::vec(value(), 0..4), plain in proptest::collection::vec(value(), 1..4),
    ) {
        let operation = only(&document(json!({ "/v1/{a}/x/{b}.json": { "get": { "parameters": [
            { "name": "a", "in": "path", "schema": { "type": "string" } }, { "name": "b", "in": "path", "schema": { "type": "string" } },
            { "name": "q[x]", "in": "query", "schema": { "type": "string" } },
            { "name": "list", "in": "query", "schema": { "type": "array", "items": { "type": "string" } } },
            { "name": "plain", "in": "query", "explode": false, "schema": { "type": "array", "items": { "type": "string" } } },
        ] } } })));
        let arguments = json!({ "a": a, "b": b, "q_x": q, "list": list, "plain": plain });
        let Ok(request) = request(&operation, &arguments) else {
            // Only what is no ordinary segment is refused.
            prop_assert!([&a, &b].iter().any(|text| !text.chars().all(|c| c.is_ascii_alphanumeric())));
            return Ok(());
        };
        prop_assert!(request.target.bytes().all(|byte| byte.is_ascii_graphic()));
        let url = url::Url::parse(&format!("https://api.example:8443/base{}", request.target)).unwrap();
        prop_assert_eq!(url.origin().ascii_serialization(), "https://api.example:8443");
        prop_assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
        let segments: Vec<String> = url.path_segments().unwrap().map(|text| encode::decoded(text).unwrap().unwrap_or_else(|| text.to_owned())).collect();
        prop_assert_eq!(segments, ["base", "v1", a.as_str(), "x", &format!("{b}.json")]);
        let pairs: Vec<(String, String)> = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let mut expected: Vec<(String, String)> = list.iter().map(|value| ("list".to_owned(), value.clone())).collect();
        expected.push(("plain".to_owned(), plain.join(",")));
        expected.push(("q[x]".to_owned(), q.clone()));
        prop_assert_eq!(pairs, expected);
        // A comma inside an element is told from one between elements.
        let raw = url.query().unwrap().split('&').find_map(|pair| pair.strip_prefix("plain=")).unwrap();
        let elements: Vec<String> = raw.split(',').map(|text| encode::decoded(text).unwrap().unwrap_or_else(|| text.to_owned())).collect();
        prop_assert_eq!(elements, plain);
    }

    #[test]
    fn a_header_that_is_built_is_one_line_of_what_was_given(value in "[\\x01-\\x7f\u{e9}]{0,20}") {
        let operation = only(&document(json!({ "/x": { "get": { "parameters": [{ "name": "X-A", "in": "header", "schema": { "type": "string" } }] } } })));
        match request(&operation, &json!({ "X-A": value })) {
            Ok(request) => {
                prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
                prop_assert_eq!(request.headers, [("X-A".to_owned(), value)]);
            }
            Err(_) => prop_assert!(value.trim() != value || value.is_empty() || value.bytes().any(|byte| !matches!(byte, b' '..=b'~'))),
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(&bytes, &choice()).is_ok();
    }

    /// Damage at one place of a document that has everything.
    #[test]
    fn no_damaged_document_makes_the_parser_panic(at in 0_usize..1500, with in "[{}\\[\\]\"$#/a0,:]{0,3}") {
        let whole = document(json!({ "/a/{id}": { "parameters": [id()], "post": { "requestBody": { "content": { "application/json": { "schema": {
            "type": "object", "properties": { "a": { "$ref": "#/paths/~1a~1{id}/post/requestBody/content/application~1json/schema" } }, "required": ["a"], "allOf": [{ "not": {} }] } } } } } } })).to_string();
        let at = at % whole.len();
        let (before, rest) = whole.split_at_checked(at).unwrap();
        let damaged = format!("{before}{with}{}", rest.get(with.len()..).unwrap_or_default());
        if let Ok(document) = Document::parse(damaged.as_bytes(), &choice()) {
            for operation in document.operations() {
                let _ = operation.request(Raw::parse(br#"{"id":"x","body":{"a":{}}}"#, &Limits::REQUEST).unwrap()).is_ok();
            }
        }
    }
}
