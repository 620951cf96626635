-- The tables of the sample shop. STRICT tables and checks: the shop defends itself, whoever calls it.
CREATE TABLE customer (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  email TEXT NOT NULL UNIQUE,
  street TEXT NOT NULL,
  postal_code TEXT NOT NULL,
  city TEXT NOT NULL,
  country TEXT NOT NULL CHECK (length(country) = 2),
  discount_percent INTEGER NOT NULL DEFAULT 0 CHECK (discount_percent BETWEEN 0 AND 50)
) STRICT;

CREATE TABLE purchase (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  customer INTEGER REFERENCES customer (id) ON DELETE SET NULL,
  article TEXT NOT NULL,
  quantity INTEGER NOT NULL CHECK (quantity > 0),
  total_cents INTEGER NOT NULL CHECK (total_cents > 0),
  paid_cents INTEGER NOT NULL CHECK (paid_cents BETWEEN 0 AND total_cents),
  status TEXT NOT NULL CHECK (status IN ('placed', 'packed', 'shipped', 'delivered', 'cancelled')),
  placed_on TEXT NOT NULL
) STRICT;
CREATE INDEX purchase_by_customer ON purchase (customer);

CREATE TABLE refund (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  purchase INTEGER NOT NULL REFERENCES purchase (id),
  amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
  reason TEXT NOT NULL,
  made_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;
CREATE INDEX refund_by_purchase ON refund (purchase);
CREATE TRIGGER refund_within_payment BEFORE INSERT ON refund
WHEN new.amount_cents + (SELECT coalesce(sum(amount_cents), 0) FROM refund WHERE purchase = new.purchase)
     > (SELECT paid_cents FROM purchase WHERE id = new.purchase)
BEGIN SELECT raise(ABORT, 'more than was paid'); END;

CREATE TABLE ticket (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  customer INTEGER NOT NULL REFERENCES customer (id) ON DELETE CASCADE,
  purchase INTEGER REFERENCES purchase (id),
  status TEXT NOT NULL CHECK (status IN ('open', 'waiting', 'closed')),
  subject TEXT NOT NULL,
  text TEXT NOT NULL,
  opened_on TEXT NOT NULL
) STRICT;

CREATE TABLE comment (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  ticket INTEGER NOT NULL REFERENCES ticket (id) ON DELETE CASCADE,
  author TEXT NOT NULL CHECK (author IN ('staff', 'customer', 'automation')),
  visibility TEXT NOT NULL CHECK (visibility IN ('internal', 'customer')),
  text TEXT NOT NULL,
  written_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
) STRICT;
CREATE INDEX comment_by_ticket ON comment (ticket);

CREATE TABLE supplier (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  account TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('active', 'blocked')),
  owed_cents INTEGER NOT NULL CHECK (owed_cents >= 0)
) STRICT;

CREATE TABLE payout (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  supplier INTEGER NOT NULL REFERENCES supplier (id),
  invoice TEXT NOT NULL,
  amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
  made_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  UNIQUE (supplier, invoice)
) STRICT;

CREATE TABLE discount_request (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  customer INTEGER NOT NULL REFERENCES customer (id) ON DELETE CASCADE,
  percent INTEGER NOT NULL CHECK (percent BETWEEN 1 AND 50),
  reason TEXT NOT NULL,
  requested_by TEXT NOT NULL CHECK (requested_by IN ('staff', 'automation')),
  status TEXT NOT NULL CHECK (status IN ('requested', 'approved', 'refused')),
  requested_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
  decided_at TEXT
) STRICT;
CREATE UNIQUE INDEX one_open_discount_request ON discount_request (customer) WHERE status = 'requested';

-- One row for each change made through the shop's tools; rows are only ever added.
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  tool TEXT NOT NULL,
  target TEXT NOT NULL,
  arguments TEXT NOT NULL,
  traceparent TEXT
) STRICT;
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit is never changed'); END;
CREATE TRIGGER audit_is_never_shortened BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit is never shortened'); END;
