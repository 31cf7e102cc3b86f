-- Updates that leave a column of 10 kB alone. Under DEFAULT its value is read again; under FULL the old row has it.
CREATE TABLE public.part (id bigint PRIMARY KEY, n integer, body text);
CREATE TABLE public.whole (id bigint PRIMARY KEY, n integer, body text);
ALTER TABLE public.part ALTER body SET STORAGE EXTERNAL;
ALTER TABLE public.whole ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
INSERT INTO public.part SELECT n, 0, repeat(md5(n::text), 313) FROM generate_series(0, 4999) AS n;
INSERT INTO public.whole SELECT * FROM public.part;
CREATE PROCEDURE public.load_part(size integer, INOUT events bigint, INOUT ids bigint, INOUT last pg_lsn)
LANGUAGE plpgsql AS $$
BEGIN
    events := 0; ids := 0;
    FOR block IN 0 .. size / 2500 - 1 LOOP
        UPDATE public.part SET n = n + 1 WHERE id BETWEEN block % 50 * 100 AND block % 50 * 100 + 99;
        events := events + 100; ids := ids + block % 50 * 10000 + 4950;
        last := pg_current_wal_insert_lsn();
        COMMIT;
    END LOOP;
END $$;
CREATE PROCEDURE public.load_whole(size integer, INOUT events bigint, INOUT ids bigint, INOUT last pg_lsn)
LANGUAGE plpgsql AS $$
BEGIN
    events := 0; ids := 0;
    FOR block IN 0 .. size / 2500 - 1 LOOP
        UPDATE public.whole SET n = n + 1 WHERE id BETWEEN block % 50 * 100 AND block % 50 * 100 + 99;
        events := events + 100; ids := ids + block % 50 * 10000 + 4950;
        last := pg_current_wal_insert_lsn();
        COMMIT;
    END LOOP;
END $$;
