-- On which frozen base a version stands, by its fingerprint, and what the base was called
-- question: Q3
-- param rev REVISION: the version
SELECT c.id AS revision, c.base,
  (SELECT group_concat(DISTINCT substr(r.value ->> 'name', 6))
   FROM v_events e, json_each(e.objects) o, json_each(e.refs) r
   WHERE e.command = 'base add' AND o.value = c.base AND r.value ->> 'name' LIKE 'base:%')
    AS names
FROM v_commits c
WHERE c.id = :rev
