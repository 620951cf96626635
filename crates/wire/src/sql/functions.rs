//! Functions that only look, by dialect, and those that are never called. What is on neither list is taken for the worst.
//!
//! A list of what is allowed, because lists of what is forbidden leak. A test of `bailiwick-credentials` asks a real `PostgreSQL` of each
//! name on its list whether it calls it immutable or stable.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use bailiwick_core::Effect;

use super::{Dialect, SqlRefusal};

/// What a call of a function does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Calls {
    /// It only looks.
    Reads,
    /// It may do this, because of that.
    Acts(Effect, String),
}

pub(super) struct Functions<'a> {
    dialect: Dialect,
    vouched: &'a BTreeSet<String>,
}

impl<'a> Functions<'a> {
    pub(super) const fn new(dialect: Dialect, vouched: &'a BTreeSet<String>) -> Self {
        Self { dialect, vouched }
    }

    pub(super) fn is_postgresql(&self) -> bool {
        self.dialect == Dialect::Postgresql
    }

    /// Why a function of this name is never called, in whatever schema and letters.
    pub(super) fn never(&self, name: &str) -> Option<&'static str> {
        let name = name.to_ascii_lowercase();
        let lists = if self.dialect == Dialect::Postgresql { NEVER_POSTGRESQL } else { NEVER_MARIADB };
        let fits = |pattern: &str| pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix));
        let looks = self.dialect == Dialect::Postgresql && POSTGRESQL.contains(name.as_str());
        lists.iter().find(|(patterns, _)| patterns.split_ascii_whitespace().any(fits)).map(|(_, why)| *why).filter(|_| !looks)
    }

    /// Why a function of this name is not called in `PostgreSQL`'s other way, `x.name`. What stands in another schema is not found that way, and
    /// names that many columns have are left out.
    pub(super) fn never_after_dot(&self, name: &str) -> Option<SqlRefusal> {
        let small = name.to_ascii_lowercase();
        let column = matches!(small.as_str(), "schedule" | "unschedule")
            || small.starts_with("cron_")
            || (small.starts_with("lo_") && !LARGE_OBJECTS.split_ascii_whitespace().any(|known| known == small));
        let why = self.never(name).filter(|_| !column)?;
        let name: String = name.chars().take(80).collect();
        Some(SqlRefusal::new(format!("`{name}` is never called: {why} (what is no column after a `.` is called)")))
    }

    /// Is it a function of the server that only looks?
    pub(super) fn is_native(&self, name: &str) -> bool {
        if self.dialect == Dialect::Postgresql { POSTGRESQL.contains(name) } else { MARIADB.contains(name) }
    }

    /// Does this function of `PostgreSQL` give rows of columns, never values?
    pub(super) fn gives_records(name: &str) -> bool {
        GIVE_RECORDS.split_ascii_whitespace().any(|known| known == name)
    }

    /// The name that this function of `PostgreSQL` has for its one column.
    pub(super) fn column_of(name: &str) -> Option<&'static str> {
        GIVE_VALUE.split_ascii_whitespace().any(|known| known == name).then_some("value")
    }

    /// Is it a function of `PostgreSQL` that is called without parentheses?
    pub(super) fn is_value(name: &str) -> bool {
        VALUES.split_ascii_whitespace().any(|known| name.eq_ignore_ascii_case(known))
    }

    /// What a call does. `schema` is what stands before the name, empty for more than one part.
    pub(super) fn calls(&self, schema: Option<&str>, name: &str, quoted: bool) -> Calls {
        let folded = if quoted && self.dialect == Dialect::Postgresql { name.to_owned() } else { name.to_ascii_lowercase() };
        let full = schema.map_or_else(|| folded.clone(), |schema| format!("{schema}.{folded}"));
        let shown: String = full.chars().take(80).collect();
        if self.vouched.contains(&full) {
            return Calls::Reads;
        }
        let (native, looks, writes) = match self.dialect {
            Dialect::Postgresql => (matches!(schema, None | Some("pg_catalog")), &POSTGRESQL, "nextval setval pg_notify lastval"),
            // In quotes it is a function that somebody made.
            Dialect::Mariadb => (schema.is_none() && !quoted, &MARIADB, "nextval setval lastval last_insert_id"),
        };
        if native && looks.contains(folded.as_str()) {
            Calls::Reads
        } else if native && writes.split_ascii_whitespace().any(|known| known == folded) {
            Calls::Acts(Effect::Write, format!("it calls `{shown}`, which changes more than rows"))
        } else {
            Calls::Acts(Effect::Delete, format!("it calls `{shown}`, which is not known to only look"))
        }
    }
}

/// Names, or their beginnings with `*`, and why they are never called. A name that only looks is excepted by standing on the other list.
const NEVER_POSTGRESQL: &[(&str, &str)] = &[
    ("set_config", "it changes the session, which must be the same for every call"),
    ("pg_sleep*", "it only waits"),
    ("pg_advisory* pg_try_advisory*", "a lock keeps others waiting"),
    (
        "lo_* loread lowrite pg_read_* pg_ls_* pg_stat_file pg_file_* pg_logdir_ls pg_current_logfile* pg_hba_file_rules pg_ident_file_mappings \
      pg_show_all_file_settings",
        "files of the server are out of reach",
    ),
    (
        "dblink* query_to_* cursor_to_* table_to_* schema_to_* database_to_* ts_stat crosstab* connectby* xpath_table postgres_fdw_*",
        "it runs a text as a statement, or reaches another server",
    ),
    (
        "pg_terminate_* pg_cancel_* pg_reload_* pg_rotate_* pg_stat_reset* pg_stat_force* pg_stat_clear* pg_replication_* pg_logical_* pg_create_* pg_drop_* \
      pg_copy_* pg_wal_* pg_switch_* pg_backup_* pg_start_* pg_stop_* pg_promote pg_import_* pg_extension_config_dump pg_export_snapshot \
      pg_log_* pg_nextoid pg_prewarm* pg_buffercache_* pg_execute* pg_sync_* pg_restore_* pg_clear_* pg_set_* pg_stop_making_pinned_objects \
      binary_upgrade_* brin_* gin_clean* pg_truncate_* heap_force_* pg_surgery* pg_upgrade_* cron_* schedule unschedule plpgsql_* plperl_* plpython*",
        "it acts on the server, not on its data",
    ),
];

/// The server's functions of large objects; many tables have other columns that begin so.
const LARGE_OBJECTS: &str = "lo_close lo_creat lo_create lo_export lo_from_bytea lo_get lo_import lo_lseek lo_lseek64 lo_manage lo_oid lo_open lo_put \
    lo_tell lo_tell64 lo_truncate lo_truncate64 lo_unlink";

const GIVE_RECORDS: &str = "json_each json_each_text jsonb_each jsonb_each_text json_to_record json_to_recordset jsonb_to_record jsonb_to_recordset \
    json_populate_record json_populate_recordset jsonb_populate_record jsonb_populate_recordset";

const GIVE_VALUE: &str = "json_array_elements json_array_elements_text jsonb_array_elements jsonb_array_elements_text";

const VALUES: &str = "current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime localtimestamp \
    session_user system_user user";

const NEVER_MARIADB: &[(&str, &str)] = &[
    ("sleep benchmark master_pos_wait master_gtid_wait wait_for_executed_gtid_set*", "it only waits"),
    ("get_lock release_lock release_all_locks is_used_lock is_free_lock", "a lock keeps others waiting"),
    ("load_file sys_* xp_* lib_mysqludf_* do_system", "files and programs of the server are out of reach"),
    ("query_to_* spider_* handlersocket_*", "it runs a text as a statement, or reaches another server"),
];

static POSTGRESQL: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| POSTGRESQL_LOOKS.split_ascii_whitespace().collect());
static MARIADB: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| MARIADB_LOOKS.split_ascii_whitespace().collect());

/// Names of functions of `PostgreSQL` that only look, as its own catalogue or its grammar knows them.
pub const POSTGRESQL_LOOKS: &str = "\
    abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh cbrt ceil ceiling cos cosd cosh cot cotd degrees div erf erfc exp factorial \
    floor gamma gcd lcm lgamma ln log log10 min_scale mod pi power radians random round scale sign sin sind sinh sqrt tan tand tanh trim_scale trunc \
    width_bucket numeric_inc \
    ascii bit_length btrim char_length character_length chr concat concat_ws convert convert_from convert_to decode encode format initcap left \
    length lower lpad ltrim md5 normalize is_normalized octet_length overlay parse_ident position quote_ident quote_literal quote_nullable \
    regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr \
    repeat replace reverse right rpad rtrim split_part starts_with string_to_array string_to_table strpos substr substring to_ascii to_bin to_hex \
    to_oct translate trim upper unistr casefold like_escape textcat \
    bit_count get_bit get_byte set_bit set_byte sha224 sha256 sha384 sha512 crc32 crc32c \
    to_char to_date to_number to_timestamp \
    age clock_timestamp current_date current_time current_timestamp date_add date_bin date_part date_subtract date_trunc extract isfinite justify_days \
    justify_hours justify_interval localtime localtimestamp make_date make_interval make_time make_timestamp make_timestamptz now \
    statement_timestamp timeofday transaction_timestamp timezone overlaps \
    enum_first enum_last enum_range \
    area box bound_box center circle diagonal diameter height isclosed isopen line lseg npoints path pclose point polygon popen slope radius width \
    abbrev broadcast family host hostmask inet_merge inet_same_family masklen netmask network set_masklen macaddr8_set7bit \
    array_to_tsvector get_current_ts_config numnode phraseto_tsquery plainto_tsquery querytree setweight strip to_tsquery to_tsvector \
    json_to_tsvector jsonb_to_tsvector ts_delete ts_filter ts_headline ts_rank ts_rank_cd tsquery_phrase tsvector_to_array websearch_to_tsquery \
    gen_random_uuid uuidv4 uuidv7 uuid_extract_timestamp uuid_extract_version \
    array_to_json json json_array json_array_elements json_array_elements_text json_array_length json_build_array json_build_object json_each \
    json_each_text json_exists json_extract_path json_extract_path_text json_object json_object_keys json_populate_record \
    json_populate_recordset json_query json_scalar json_serialize json_strip_nulls json_table json_to_record json_to_recordset json_typeof \
    json_value jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text \
    jsonb_exists jsonb_exists_all jsonb_exists_any jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_keys \
    jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array \
    jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record \
    jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof row_to_json \
    to_json to_jsonb \
    coalesce nullif greatest least num_nonnulls num_nulls cast treat collation \
    array_append array_cat array_dims array_fill array_length array_lower array_ndims array_position array_positions array_prepend array_remove \
    array_replace array_reverse array_sample array_shuffle array_sort array_to_string array_upper cardinality trim_array unnest generate_subscripts \
    isempty lower_inc lower_inf range_merge upper_inc upper_inf multirange int4range int8range numrange tsrange tstzrange daterange \
    int4multirange int8multirange nummultirange tsmultirange tstzmultirange datemultirange \
    array_agg any_value avg bit_and bit_or bit_xor bool_and bool_or count every json_agg json_arrayagg json_object_agg json_objectagg jsonb_agg \
    jsonb_object_agg max min range_agg range_intersect_agg string_agg sum xmlagg corr covar_pop covar_samp regr_avgx regr_avgy regr_count \
    regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp variance var_pop var_samp mode percentile_cont \
    percentile_disc grouping rank dense_rank percent_rank cume_dist row_number ntile lag lead first_value last_value nth_value \
    generate_series \
    current_catalog current_database current_query current_role current_schema current_schemas current_user session_user user version \
    current_setting inet_client_addr inet_client_port inet_server_addr inet_server_port pg_backend_pid pg_is_in_recovery pg_postmaster_start_time \
    has_any_column_privilege has_column_privilege has_database_privilege has_function_privilege has_schema_privilege has_sequence_privilege \
    has_table_privilege has_type_privilege pg_has_role row_security_active \
    pg_table_is_visible pg_type_is_visible pg_function_is_visible format_type pg_get_constraintdef pg_get_expr pg_get_functiondef \
    pg_get_indexdef pg_get_keywords pg_get_partkeydef pg_get_ruledef pg_get_serial_sequence pg_get_triggerdef pg_get_userbyid pg_get_viewdef \
    pg_index_column_has_property pg_indexes_size pg_column_size pg_database_size pg_relation_size pg_table_size pg_total_relation_size \
    pg_size_bytes pg_size_pretty pg_typeof to_regclass to_regnamespace to_regproc to_regprocedure to_regrole to_regtype col_description \
    obj_description shobj_description \
    xmlcomment xmlconcat xmlelement xmlexists xmlforest xmlparse xmlpi xmlroot xmlserialize xmltable xml_is_well_formed xml_is_well_formed_document \
    xpath xpath_exists \
    bernoulli system array merge_action \
    text name date timetz timestamptz bpchar varbit bool boolean bytea int2 int4 int8 float4 float8 numeric varchar char interval time timestamp";

/// Names of functions of `MariaDB` that only look.
pub const MARIADB_LOOKS: &str = "\
    abs acos asin atan atan2 ceil ceiling conv cos cot crc32 crc32c degrees exp floor greatest least ln log log10 log2 mod oct pi pow power radians \
    rand round sign sin sqrt tan truncate \
    ascii bin bit_length cast char char_length character_length charset chr coercibility collation concat concat_ws convert elt export_set \
    extractvalue field find_in_set format from_base64 hex insert instr lcase left length lengthb locate lower lpad ltrim make_set match against mid \
    natural_sort_key octet_length ord position quote regexp_instr regexp_replace regexp_substr repeat replace reverse right rpad rtrim sformat soundex \
    space strcmp substr substring substring_index to_base64 to_char trim trim_oracle ucase unhex updatexml upper weight_string \
    adddate addtime add_months convert_tz curdate current_date current_time current_timestamp curtime date datediff date_add date_format date_sub day \
    dayname dayofmonth dayofweek dayofyear extract from_days from_unixtime get_format hour last_day localtime localtimestamp makedate maketime \
    microsecond minute month monthname now period_add period_diff quarter second sec_to_time str_to_date subdate subtime sysdate time timediff \
    timestamp timestampadd timestampdiff time_format time_to_sec to_days to_seconds unix_timestamp utc_date utc_time utc_timestamp week weekday \
    weekofyear year yearweek \
    coalesce if ifnull isnull nullif nvl nvl2 decode decode_oracle interval \
    avg bit_and bit_or bit_xor count group_concat json_arrayagg json_objectagg max min std stddev stddev_pop stddev_samp sum variance var_pop var_samp \
    cume_dist dense_rank first_value lag last_value lead median nth_value ntile percentile_cont percentile_disc percent_rank rank row_number \
    json_array json_array_append json_array_insert json_array_intersect json_compact json_contains json_contains_path json_depth json_detailed \
    json_equals json_exists json_extract json_insert json_keys json_key_value json_length json_loose json_merge json_merge_patch \
    json_merge_preserve json_normalize json_object json_object_filter_keys json_object_to_array json_overlaps json_pretty json_query \
    json_quote json_remove json_replace json_schema_valid json_search json_set json_table json_type json_unquote json_valid json_value \
    aes_decrypt aes_encrypt compress md5 password random_bytes sha sha1 sha2 uncompress uncompressed_length \
    bit_count connection_id current_role current_user database schema session_user system_user user version found_rows row_count charset \
    inet6_aton inet6_ntoa inet_aton inet_ntoa is_ipv4 is_ipv4_compat is_ipv4_mapped is_ipv6 \
    any_value default grouping name_const uuid sys_guid uuid_short values value \
    st_area st_asbinary st_asgeojson st_astext st_aswkb st_aswkt st_boundary st_buffer st_centroid st_contains st_convexhull st_crosses st_difference \
    st_dimension st_disjoint st_distance st_distance_sphere st_endpoint st_envelope st_equals st_exteriorring st_geomcollfromtext \
    st_geomfromgeojson st_geomfromtext st_geomfromwkb st_geometryn st_geometrytype st_interiorringn st_intersection st_intersects st_isclosed st_isempty \
    st_isring st_issimple st_length st_linefromtext st_numgeometries st_numinteriorrings st_numpoints st_overlaps st_pointfromtext \
    st_pointn st_pointonsurface st_polyfromtext st_relate st_srid st_startpoint st_symdifference st_touches st_union st_within st_x st_y \
    point linestring polygon multipoint multilinestring multipolygon geometrycollection";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_called_is_on_no_list_of_what_only_looks() {
        for (dialect, looks) in [(Dialect::Postgresql, POSTGRESQL_LOOKS), (Dialect::Mariadb, MARIADB_LOOKS)] {
            let lists = if dialect == Dialect::Postgresql { NEVER_POSTGRESQL } else { NEVER_MARIADB };
            let exact: Vec<_> = lists.iter().flat_map(|(words, _)| words.split_ascii_whitespace()).filter(|word| !word.ends_with('*')).collect();
            for name in looks.split_ascii_whitespace() {
                assert!(!exact.contains(&name), "{name}");
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            }
        }
    }

    #[test]
    fn a_name_in_another_schema_or_in_other_letters_is_another_function() {
        let none = BTreeSet::new();
        let functions = Functions::new(Dialect::Postgresql, &none);
        assert_eq!(functions.calls(None, "Lower", false), Calls::Reads);
        assert_eq!(functions.calls(Some("pg_catalog"), "lower", true), Calls::Reads);
        for (schema, name, quoted) in [(None, "Lower", true), (Some("app"), "lower", false), (Some(""), "lower", false), (None, "purge_all", false)] {
            assert!(matches!(functions.calls(schema, name, quoted), Calls::Acts(Effect::Delete, _)), "{schema:?} {name}");
        }
        assert!(matches!(functions.calls(None, "nextval", false), Calls::Acts(Effect::Write, _)));
        let functions = Functions::new(Dialect::Mariadb, &none);
        assert_eq!(functions.calls(None, "LOWER", false), Calls::Reads);
        assert!(matches!(functions.calls(None, "lower", true), Calls::Acts(..)));
        let vouched: BTreeSet<_> = ["app.price".to_owned(), "similarity".to_owned()].into();
        let functions = Functions::new(Dialect::Postgresql, &vouched);
        assert_eq!(functions.calls(Some("app"), "price", false), Calls::Reads);
        assert_eq!(functions.calls(None, "SIMILARITY", false), Calls::Reads);
        assert!(matches!(functions.calls(None, "price", false), Calls::Acts(..)));
    }
}
