//! What the parser's tree of a statement does: its kind, the statements within it, what it calls, what it names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use bailiwick_core::Effect;
use sqlparser::ast::{
    AccessExpr, AlterColumnOperation, AlterSchemaOperation, AlterTableOperation, Expr, FromTable, Ident, Insert, MergeAction, ObjectName,
    ObjectNamePart, ObjectType, Query, SchemaName, Select, SetExpr, Statement, TableAlias, TableFactor, TableObject, Visit as _, Visitor,
};

use super::functions::{Calls, Functions};
use super::{Dialect, SqlRefusal};

/// Reasons and tables are told up to so many.
const TOLD_MAX: usize = 32;

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) effect: Effect,
    pub(super) reasons: Vec<String>,
    pub(super) tables: Vec<String>,
    /// Names of the statement's own that have a list of columns, in small letters, and how many of each.
    pub(super) aliases: BTreeMap<String, usize>,
}

pub(super) fn walk(dialect: Dialect, statement: &Statement, functions: &Functions<'_>) -> Result<Seen, SqlRefusal> {
    let seen = Seen { effect: Effect::Read, reasons: Vec::new(), tables: Vec::new(), aliases: BTreeMap::new() };
    let mut walk = Walk { dialect, functions, seen, own: Vec::new(), called: None, names_system: false, sources: Sources::default() };
    if let ControlFlow::Break(refusal) = statement.visit(&mut walk) {
        return Err(refusal);
    }
    walk.columns();
    let (seen, names_system) = (walk.seen, walk.names_system);
    if seen.effect != Effect::Read && names_system {
        return Err(SqlRefusal::new("tables of the server itself are only read: name them in a `query`".to_owned()));
    }
    Ok(seen)
}

struct Walk<'a> {
    dialect: Dialect,
    functions: &'a Functions<'a>,
    seen: Seen,
    /// The names that `WITH` gives, one frame for each query that is open.
    own: Vec<Frame>,
    /// A function that stands where a table does: its name is no table.
    called: Option<String>,
    /// It names a table of the server itself, whether that one is told or not.
    names_system: bool,
    sources: Sources,
}

/// What rows come from, and the columns that are asked of it. `n.f` calls the function `f` with a row of `n` where that has no such column.
#[derive(Default)]
struct Sources {
    /// What has rows of more than a value: tables, queries, names of `WITH`.
    tables: BTreeSet<String>,
    /// What a function gives, and what is known to be a column of it.
    functions: BTreeMap<String, BTreeSet<String>>,
    /// A function's rows have no name of ours.
    nameless: bool,
    /// `n.f`, to be asked for when all sources are known.
    columns: Vec<(String, Ident)>,
}

/// The names that a query's `WITH` gives: those that hold already, and those whose bodies are still to come, in order.
struct Frame {
    holds: Vec<String>,
    to_come: std::collections::VecDeque<String>,
}

type Step = ControlFlow<SqlRefusal>;

impl Walk<'_> {
    fn raise(&mut self, effect: Effect, why: String) {
        if effect == Effect::Read {
            return;
        }
        let first = effect > self.seen.effect;
        self.seen.effect = self.seen.effect.max(effect);
        if !self.seen.reasons.contains(&why) && self.seen.reasons.len() < TOLD_MAX {
            let place = if first { 0 } else { self.seen.reasons.len() };
            self.seen.reasons.insert(place, why);
        }
    }

    fn call(&mut self, name: &ObjectName) {
        let mut parts: Vec<&Ident> = Vec::with_capacity(name.0.len());
        for part in &name.0 {
            match part {
                ObjectNamePart::Identifier(ident) => parts.push(ident),
                ObjectNamePart::Function(_) => return self.raise(Effect::Delete, "it calls a function whose name is computed".to_owned()),
            }
        }
        let (schema, function) = match parts.as_slice() {
            [function] => (None, *function),
            [schema, function] => (Some(folded(self.dialect, schema)), *function),
            [.., function] => (Some(String::new()), *function),
            [] => return,
        };
        if let Calls::Acts(effect, why) = self.functions.calls(schema.as_deref(), &function.value, function.quote_style.is_some()) {
            self.raise(effect, why);
        }
    }

    fn names(&mut self, name: &ObjectName) {
        let parts: Vec<_> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(|part| shown(self.dialect, part)).collect();
        let table = parts.join(".");
        let own = parts.len() == 1 && self.own.iter().any(|frame| frame.holds.contains(&table));
        self.names_system |= !own && is_of_the_system(self.dialect, name);
        if !own && !self.seen.tables.contains(&table) && self.seen.tables.len() < TOLD_MAX {
            self.seen.tables.push(table);
        }
    }

    fn alias(&mut self, alias: Option<&TableAlias>) {
        if let Some(alias) = alias.filter(|alias| !alias.columns.is_empty()) {
            *self.seen.aliases.entry(alias.name.value.to_ascii_lowercase()).or_default() += 1;
        }
    }

    /// Rows of a table, by its alias or its name.
    fn table_source(&mut self, alias: Option<&TableAlias>, name: Option<&Ident>) {
        if let Some(name) = alias.map(|alias| &alias.name).or(name) {
            self.sources.tables.insert(clipped(self.dialect, name));
        }
    }

    /// Rows of a function; `columns` are those that it is known to have where the alias does not say them.
    fn function_source(&mut self, alias: Option<&TableAlias>, name: Option<&Ident>, columns: &[String], with_ordinality: bool) {
        self.sources.nameless |= alias.is_none();
        let Some(name) = alias.map(|alias| &alias.name).or(name) else { return };
        let declared = alias.map(|alias| alias.columns.as_slice()).unwrap_or_default();
        let mut known: BTreeSet<_> = declared.iter().map(|column| clipped(self.dialect, &column.name)).collect();
        if declared.is_empty() {
            known.extend(columns.iter().cloned());
            known.extend(with_ordinality.then(|| "ordinality".to_owned()));
        }
        // Two sources of one name: what is a column of both.
        let known_of = self.sources.functions.entry(clipped(self.dialect, name)).or_insert_with(|| known.clone());
        known_of.retain(|column| known.contains(column));
    }

    /// Rows of a function that is called by its name.
    fn call_source(&mut self, function: &ObjectName, alias: Option<&TableAlias>, with_ordinality: bool) {
        let parts: Vec<_> = function.0.iter().filter_map(ObjectNamePart::as_ident).collect();
        let Some(name) = parts.last().copied() else { return self.function_source(alias, None, &[], with_ordinality) };
        let folded = folded(self.dialect, name);
        let native = match parts.as_slice() {
            [_] => true,
            [schema, _] => self::folded(self.dialect, schema) == "pg_catalog",
            _ => false,
        };
        if native && Functions::gives_records(&folded) {
            return self.table_source(alias, Some(name));
        }
        // The one column of a function of the server that has no name for it is called as its rows are.
        let looks = native && self.functions.is_native(&folded);
        let column = match Functions::column_of(&folded).filter(|_| native) {
            Some(column) => Some(column.to_owned()),
            None => looks.then(|| clipped(self.dialect, alias.map_or(name, |alias| &alias.name))),
        };
        self.function_source(alias, Some(name), column.as_slice(), with_ordinality);
    }

    fn source(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table { name, args, alias, with_ordinality, .. } => {
                let last = name.0.last().and_then(ObjectNamePart::as_ident);
                // `FROM current_user` calls it.
                let value = name.0.len() == 1 && last.is_some_and(|last| last.quote_style.is_none() && Functions::is_value(&last.value));
                if args.is_some() {
                    self.call_source(name, alias.as_ref(), *with_ordinality);
                } else if value {
                    let column = alias.as_ref().map(|alias| &alias.name).or(last).map(|name| clipped(self.dialect, name));
                    self.function_source(alias.as_ref(), last, column.as_slice(), *with_ordinality);
                } else {
                    self.table_source(alias.as_ref(), last);
                }
            }
            TableFactor::Function { name, alias, with_ordinality, .. } => self.call_source(name, alias.as_ref(), *with_ordinality),
            TableFactor::UNNEST { alias, with_ordinality, .. } => {
                let column = alias.as_ref().map_or_else(|| "unnest".to_owned(), |alias| clipped(self.dialect, &alias.name));
                self.function_source(alias.as_ref(), Some(&Ident::new("unnest")), &[column], *with_ordinality);
            }
            TableFactor::Derived { subquery, alias: Some(alias), .. } => match &*subquery.body {
                SetExpr::Values(values) => {
                    let width = values.rows.first().map_or(0, |row| row.content.len());
                    let columns: Vec<_> = (1..=width).map(|n| format!("column{n}")).collect();
                    self.function_source(Some(alias), None, &columns, false);
                }
                _ => self.table_source(Some(alias), None),
            },
            TableFactor::TableFunction { alias, .. } => self.function_source(alias.as_ref(), None, &[], false),
            TableFactor::NestedJoin { alias, .. } | TableFactor::JsonTable { alias, .. } | TableFactor::XmlTable { alias, .. } => {
                self.table_source(alias.as_ref(), None);
            }
            _ => {}
        }
    }

    /// `of.name`, which is a column or a call.
    fn column(&mut self, of: &Ident, name: &Ident) -> Step {
        self.no_never(name)?;
        self.sources.columns.push((clipped(self.dialect, of), name.clone()));
        ControlFlow::Continue(())
    }

    /// `(expression).name`, which is a part of a row or a call.
    fn part(&mut self, name: &Ident) -> Step {
        self.no_never(name)?;
        if let Calls::Acts(effect, why) = self.functions.calls(None, &name.value, name.quote_style.is_some()) {
            self.raise(effect, why);
        }
        ControlFlow::Continue(())
    }

    fn no_never(&self, name: &Ident) -> Step {
        match self.functions.never_after_dot(&name.value) {
            Some(refusal) => ControlFlow::Break(refusal),
            None => ControlFlow::Continue(()),
        }
    }

    /// `a.b[1].c`: the column `a.b`, and the part `c` of what it holds.
    fn accesses(&mut self, root: &Expr, chain: &[AccessExpr]) -> Step {
        let mut of = if let Expr::Identifier(name) = root { Some(name) } else { None };
        let mut column = None;
        for access in chain {
            match access {
                AccessExpr::Dot(Expr::Identifier(name)) => match of {
                    Some(table) => {
                        column = Some((table, name));
                        of = Some(name);
                    }
                    None => self.part(name)?,
                },
                AccessExpr::Dot(Expr::Function(_)) => of = None,
                AccessExpr::Dot(_) => {
                    of = None;
                    self.raise(Effect::Delete, "it has a `.` of which nobody can tell what follows it".to_owned());
                }
                AccessExpr::Subscript(_) => of = None,
            }
        }
        if let Some((table, name)) = column {
            self.column(table, name)?;
        }
        ControlFlow::Continue(())
    }

    /// Asks for each `n.f`, now that it is known what `n` is.
    fn columns(&mut self) {
        let Sources { tables, functions, nameless, columns } = std::mem::take(&mut self.sources);
        for (of, name) in columns {
            let quoted = name.quote_style.is_some();
            let Calls::Acts(effect, why) = self.functions.calls(None, &name.value, quoted) else { continue };
            let is_column = match functions.get(&of) {
                Some(known) => known.contains(&clipped(self.dialect, &name)),
                // A row of a table fits no function of the server that acts; one with such a name is told all the same.
                None => (tables.contains(&of) || !nameless) && effect == Effect::Delete,
            };
            if !is_column {
                self.raise(effect, format!("{why} (what is no column after a `.` is called)"));
            }
        }
    }

    fn insert(&mut self, insert: &Insert) {
        if insert.replace_into || insert.overwrite {
            self.raise(Effect::Delete, "`REPLACE` removes the rows that it replaces".to_owned());
        } else {
            self.raise(Effect::Write, "`INSERT` adds rows".to_owned());
        }
        match &insert.table {
            TableObject::TableName(name) => {
                self.names(name);
                self.sources.tables.extend(name.0.last().and_then(ObjectNamePart::as_ident).map(|name| clipped(self.dialect, name)));
                self.sources.tables.extend(insert.table_alias.as_ref().map(|alias| clipped(self.dialect, &alias.alias)));
                self.sources.tables.extend(["excluded", "old", "new"].map(str::to_owned));
            }
            TableObject::TableFunction(function) => self.call(&function.name),
            TableObject::TableQuery(_) => {}
        }
    }
}

impl Visitor for Walk<'_> {
    type Break = SqlRefusal;

    fn pre_visit_statement(&mut self, statement: &Statement) -> Step {
        match kind(self.dialect, statement) {
            Ok((effect, why)) => self.raise(effect, why.to_owned()),
            Err(refusal) => return ControlFlow::Break(refusal),
        }
        match statement {
            Statement::Insert(insert) => self.insert(insert),
            Statement::Call(function) => self.call(&function.name),
            Statement::Drop { names, .. } => names.iter().for_each(|name| self.names(name)),
            Statement::Truncate(truncate) => truncate.table_names.iter().for_each(|target| self.names(&target.name)),
            Statement::CreateView(view) => self.names(&view.name),
            Statement::CreateSequence { name, .. } | Statement::AlterIndex { name, .. } | Statement::CreateType { name, .. } => self.names(name),
            Statement::Comment { object_name, .. } => self.names(object_name),
            Statement::RenameTable(pairs) => pairs.iter().for_each(|pair| {
                self.names(&pair.old_name);
                self.names(&pair.new_name);
            }),
            Statement::Delete(delete) => delete.tables.iter().for_each(|name| self.names(name)),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> Step {
        let mut frame = Frame { holds: Vec::new(), to_come: std::collections::VecDeque::new() };
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                self.alias(Some(&cte.alias));
                let name = shown(self.dialect, &cte.alias.name);
                if with.recursive { frame.holds.push(name) } else { frame.to_come.push_back(name) }
            }
        }
        self.own.push(frame);
        if !query.locks.is_empty() {
            self.raise(Effect::Write, "it locks rows".to_owned());
        }
        if query.for_clause.is_some() || query.settings.is_some() || query.format_clause.is_some() || !query.pipe_operators.is_empty() {
            return ControlFlow::Break(SqlRefusal::new("a clause of this query belongs to another sort of server".to_owned()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> Step {
        self.own.pop();
        // The bodies of `WITH` are visited before its query: the first that ends is the first name's.
        if let Some(frame) = self.own.last_mut()
            && let Some(name) = frame.to_come.pop_front()
        {
            frame.holds.push(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> Step {
        if select.into.is_some() {
            self.raise(Effect::Write, "`SELECT .. INTO` makes a table".to_owned());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Step {
        self.source(factor);
        match factor {
            TableFactor::Table { name, args, alias, .. } => {
                self.alias(alias.as_ref());
                if args.is_some() {
                    self.call(name);
                    self.called = Some(name.to_string());
                }
            }
            TableFactor::Function { name, alias, .. } => {
                self.alias(alias.as_ref());
                self.call(name);
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. }
            | TableFactor::JsonTable { alias, .. }
            | TableFactor::XmlTable { alias, .. } => self.alias(alias.as_ref()),
            _ => return ControlFlow::Break(SqlRefusal::new("a table expression of this query belongs to another sort of server".to_owned())),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> Step {
        if self.called.take_if(|called| *called == relation.to_string()).is_none() {
            self.names(relation);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Step {
        match expr {
            Expr::Function(function) => self.call(&function.name),
            Expr::CompoundIdentifier(parts) if self.dialect == Dialect::Postgresql => {
                if let [.., of, name] = parts.as_slice() {
                    return self.column(of, name);
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } if self.dialect == Dialect::Postgresql => return self.accesses(root, access_chain),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// What a statement does by being what it is; its parts are asked for themselves.
fn kind(dialect: Dialect, statement: &Statement) -> Result<(Effect, &'static str), SqlRefusal> {
    Ok(match statement {
        Statement::Query(_)
        | Statement::Explain { .. }
        | Statement::ExplainTable { .. }
        | Statement::ShowColumns { .. }
        | Statement::ShowCreate { .. }
        | Statement::ShowDatabases { .. }
        | Statement::ShowFunctions { .. }
        | Statement::ShowSchemas { .. }
        | Statement::ShowStatus { .. }
        | Statement::ShowTables { .. }
        | Statement::ShowVariable { .. }
        | Statement::ShowVariables { .. }
        | Statement::ShowViews { .. }
        | Statement::ShowCharset(_)
        | Statement::ShowProcessList { .. }
        | Statement::ShowCollation { .. } => (Effect::Read, ""),
        // Told by its own words.
        Statement::Insert(_) => (Effect::Write, "`INSERT` adds rows"),
        Statement::Update(_) => (Effect::Write, "`UPDATE` changes rows"),
        Statement::Delete(delete) if matches!(&delete.from, FromTable::WithFromKeyword(_) | FromTable::WithoutKeyword(_)) => {
            (Effect::Delete, "`DELETE` removes rows")
        }
        Statement::Merge(merge) if merge.clauses.iter().any(|clause| matches!(clause.action, MergeAction::Delete { .. })) => {
            (Effect::Delete, "`MERGE` removes rows")
        }
        Statement::Merge(_) => (Effect::Write, "`MERGE` changes rows"),
        Statement::Truncate(_) => (Effect::Delete, "`TRUNCATE` removes every row"),
        Statement::Call(_) => (Effect::Delete, "what a procedure does cannot be told"),
        Statement::CreateTable(table) if table.or_replace => (Effect::Delete, "`CREATE OR REPLACE TABLE` removes the table that it replaces"),
        Statement::CreateTable(_)
        | Statement::CreateView(_)
        | Statement::CreateIndex(_)
        | Statement::CreateSequence { .. }
        | Statement::CreateType { .. } => (Effect::Write, "`CREATE` makes something"),
        Statement::CreateSchema { schema_name: SchemaName::Simple(_), or_replace: false, .. } if dialect == Dialect::Postgresql => {
            (Effect::Write, "`CREATE` makes something")
        }
        Statement::AlterTable(table) => alteration(&table.operations)?,
        Statement::AlterSchema(schema) if schema.operations.iter().all(|operation| matches!(operation, AlterSchemaOperation::Rename { .. })) => {
            (Effect::Write, "`ALTER` changes a schema")
        }
        Statement::AlterView { .. } | Statement::AlterIndex { .. } | Statement::RenameTable(_) => (Effect::Write, "`ALTER` changes a definition"),
        Statement::Comment { .. } | Statement::Analyze(_) => (Effect::Write, "it changes what the catalogue says"),
        Statement::Drop { object_type, .. } => match object_type {
            ObjectType::Table
            | ObjectType::View
            | ObjectType::MaterializedView
            | ObjectType::Index
            | ObjectType::Schema
            | ObjectType::Sequence
            | ObjectType::Type => (Effect::Delete, "`DROP` removes something"),
            _ => return never("roles and databases are removed by people, not by tools"),
        },
        _ => return never("this sort of statement is not offered: tables, views, indexes, sequences, types and rows are changed here, nothing else"),
    })
}

fn alteration(operations: &[AlterTableOperation]) -> Result<(Effect, &'static str), SqlRefusal> {
    let mut highest = (Effect::Write, "`ALTER TABLE` changes a table");
    for operation in operations {
        match operation {
            AlterTableOperation::AddColumn { .. }
            | AlterTableOperation::AddConstraint { .. }
            | AlterTableOperation::ValidateConstraint { .. }
            | AlterTableOperation::RenameColumn { .. }
            | AlterTableOperation::RenameConstraint { .. }
            | AlterTableOperation::RenameTable { .. }
            | AlterTableOperation::AutoIncrement { .. }
            | AlterTableOperation::Algorithm { .. }
            | AlterTableOperation::AlterColumn {
                op:
                    AlterColumnOperation::SetNotNull
                    | AlterColumnOperation::DropNotNull
                    | AlterColumnOperation::SetDefault { .. }
                    | AlterColumnOperation::DropDefault
                    | AlterColumnOperation::AddGenerated { .. },
                ..
            } => {}
            AlterTableOperation::OwnerTo { .. }
            | AlterTableOperation::EnableRowLevelSecurity
            | AlterTableOperation::DisableRowLevelSecurity
            | AlterTableOperation::ForceRowLevelSecurity
            | AlterTableOperation::NoForceRowLevelSecurity
            | AlterTableOperation::EnableTrigger { .. }
            | AlterTableOperation::DisableTrigger { .. }
            | AlterTableOperation::EnableAlwaysTrigger { .. }
            | AlterTableOperation::EnableReplicaTrigger { .. }
            | AlterTableOperation::EnableRule { .. }
            | AlterTableOperation::DisableRule { .. }
            | AlterTableOperation::EnableAlwaysRule { .. }
            | AlterTableOperation::EnableReplicaRule { .. } => {
                return never("owners, triggers, rules and row security are set by people, not by tools");
            }
            // A column, a constraint, a partition that goes; a type that cuts values off; and whatever else there is.
            _ => highest = (Effect::Delete, "`ALTER TABLE` may remove what a table holds or keeps"),
        }
    }
    Ok(highest)
}

fn never<T>(why: &str) -> Result<T, SqlRefusal> {
    Err(SqlRefusal::new(why.to_owned()))
}

/// A name as the server takes it.
fn folded(dialect: Dialect, ident: &Ident) -> String {
    if dialect == Dialect::Postgresql && ident.quote_style.is_none() { ident.value.to_ascii_lowercase() } else { ident.value.clone() }
}

/// A name as it is told: without quotes where it needs none.
fn shown(dialect: Dialect, ident: &Ident) -> String {
    let name = folded(dialect, ident);
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain { name } else { format!("\"{}\"", name.replace('"', "\"\"").replace(char::is_control, " ")) }
}

/// A name as the server compares it: `PostgreSQL` cuts it off after 63 bytes.
fn clipped(dialect: Dialect, ident: &Ident) -> String {
    let mut name = folded(dialect, ident);
    if dialect == Dialect::Postgresql {
        name.truncate(name.floor_char_boundary(63));
    }
    name
}

/// A table that holds the server's own state, such as its accounts. (Nothing can be written into `information_schema`.)
fn is_of_the_system(dialect: Dialect, table: &ObjectName) -> bool {
    let parts: Vec<_> = table.0.iter().filter_map(ObjectNamePart::as_ident).map(|part| folded(dialect, part)).collect();
    match (dialect, parts.as_slice()) {
        (Dialect::Postgresql, [.., schema, _]) => schema.starts_with("pg_") && schema != "pg_temp",
        (Dialect::Postgresql, [name]) => name.starts_with("pg_"),
        (Dialect::Mariadb, [.., schema, _]) => ["mysql", "sys", "performance_schema"].iter().any(|system| schema.eq_ignore_ascii_case(system)),
        _ => false,
    }
}
