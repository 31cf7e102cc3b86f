-- A small shop. The seed is fixed and the server makes the rows, so every load has the same ones.

SELECT setseed(0.42);

-- Text in the manner of a catalogue.
CREATE FUNCTION prose(words integer) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT string_agg((ARRAY[
        'oak', 'linen', 'hand-finished', 'with', 'a', 'soft', 'matte', 'surface', 'and', 'solid',
        'brass', 'fittings', 'made', 'in', 'small', 'batches', 'for', 'daily', 'use', 'wipe',
        'clean', 'natürlich', 'geölt', '— built to last.'
    ])[1 + floor(random() * 24)::int], ' ') FROM generate_series(1, words)
$$;

CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'delivered', 'returned');

CREATE TABLE customers (
    id          uuid PRIMARY KEY,
    email       text NOT NULL UNIQUE,
    name        text NOT NULL,
    birthday    date,
    interests   text[] NOT NULL DEFAULT '{}',
    profile     jsonb NOT NULL DEFAULT '{}',
    balance     numeric(12, 2) NOT NULL DEFAULT 0,
    is_business boolean NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE products (
    sku         text PRIMARY KEY,
    name        text NOT NULL,
    price       numeric(10, 2) NOT NULL,
    weight_kg   double precision,
    stock       integer NOT NULL,
    tags        text[] NOT NULL,
    attributes  jsonb,
    description text NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Tens of kilobytes, kept out of line: an update of the price does not put them into the WAL.
ALTER TABLE products ALTER description SET STORAGE EXTERNAL;

CREATE TABLE orders (
    id          uuid PRIMARY KEY,
    customer_id uuid NOT NULL REFERENCES customers,
    status      order_status NOT NULL DEFAULT 'new',
    total       numeric(12, 2) NOT NULL DEFAULT 0,
    shipping    jsonb,
    note        text,
    placed_at   timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE order_items (
    order_id    uuid NOT NULL REFERENCES orders ON DELETE CASCADE,
    line        smallint NOT NULL,
    sku         text NOT NULL REFERENCES products ON UPDATE CASCADE,
    quantity    integer NOT NULL,
    unit_price  numeric(10, 2) NOT NULL,
    -- Without a scale of its own.
    discount    numeric,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (order_id, line)
);
CREATE INDEX ON order_items (sku);

INSERT INTO customers
SELECT md5('customer ' || n)::uuid,
       format('customer%s@example.com', n),
       (ARRAY['Ada', 'Björn', 'Chloé', 'Dmitri', 'Emi', 'Fatou', 'Gül', 'Hugo'])[1 + floor(random() * 8)::int]
           || ' ' || (ARRAY['Okafor', 'Núñez', 'Schmidt', 'Tanaka', 'O''Neill', 'Łukasik'])[1 + floor(random() * 6)::int],
       CASE WHEN random() < 0.8 THEN date '1950-01-01' + floor(random() * 20000)::int END,
       CASE WHEN random() < 0.9 THEN ARRAY['garden', 'kitchen', NULL, 'books "and" more'] ELSE '{}' END,
       jsonb_build_object('newsletter', random() < 0.5, 'visits', floor(random() * 100)::int,
                          'city', (ARRAY['Lagos', 'Zürich', 'São Paulo', '東京'])[1 + floor(random() * 4)::int]),
       round((random() * 500 - 50)::numeric, 2),
       random() < 0.1,
       timestamptz '2024-01-01 00:00+00' + random() * interval '700 days',
       '2026-01-01 00:00+00'
FROM generate_series(1, 1000) AS n;

INSERT INTO products
SELECT format('P-%s', 1000 + n),
       prose(3),
       round((5 + random() * 200)::numeric, 2),
       CASE WHEN random() < 0.9 THEN floor(random() * 4000) / 100 END,
       500 + floor(random() * 500)::int,
       ARRAY['home', CASE WHEN random() < 0.5 THEN 'sale' ELSE 'new' END],
       CASE WHEN random() < 0.9 THEN
           jsonb_build_object('color', (ARRAY['red', 'green', 'blue'])[1 + floor(random() * 3)::int],
                              'size', jsonb_build_array(floor(random() * 90)::int, floor(random() * 90)::int))
       END,
       prose(2500 + floor(random() * 5000)::int),
       '2026-01-01 00:00+00'
FROM generate_series(0, 239) AS n;

INSERT INTO orders (id, customer_id, status, shipping, note, placed_at, updated_at)
SELECT md5('order ' || n)::uuid,
       md5('customer ' || (1 + floor(random() * 1000)::int))::uuid,
       (enum_range(NULL::order_status))[1 + floor(random() * 5)::int],
       jsonb_build_object('street', format('%s High Street', n % 200), 'express', random() < 0.2),
       CASE WHEN random() < 0.3 THEN prose(8) END,
       timestamptz '2025-06-01 00:00+00' + random() * interval '200 days',
       '2026-01-01 00:00+00'
FROM generate_series(1, 1500) AS n;

INSERT INTO order_items
SELECT orders.id, line, products.sku, 1 + floor(random() * 5)::int, products.price,
       CASE WHEN random() < 0.3 THEN round((random() / 3)::numeric, 1 + line) END,
       orders.updated_at
FROM orders
CROSS JOIN LATERAL generate_series(1, 1 + (hashtext(orders.id::text) & 3)) AS line
JOIN products ON products.sku = format('P-%s', 1000 + (hashtext(orders.id::text || line) & 255) % 240);

UPDATE orders SET total = sums.total
FROM (SELECT order_id, sum(quantity * unit_price) AS total FROM order_items GROUP BY order_id) AS sums
WHERE sums.order_id = orders.id;

-- The house account: one row in each table that the demo writes to all the time, and looks for in
-- every store, to see how soon a change is visible.
INSERT INTO customers (id, email, name, created_at)
VALUES ('00000000-0000-0000-0000-000000000000', 'house@example.com', 'House account', '2024-01-01 00:00+00');
INSERT INTO products VALUES ('P-HOUSE', 'sample', 1.00, 0.1, 1, '{sample}', NULL, prose(3000));
INSERT INTO orders (id, customer_id, total, placed_at)
VALUES ('00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', 1.00, '2024-01-01 00:00+00');
INSERT INTO order_items VALUES ('00000000-0000-0000-0000-000000000000', 1, 'P-HOUSE', 1, 1.00, NULL);
