-- Branches and tags that were deleted, or moved to what was recorded before
-- question: Q17
-- param since TIME = 1970-01-01: not before
SELECT e.number AS event, e.time, e.actor, e.command, r.value ->> 'name' AS ref,
  r.value ->> 'before' AS before, r.value ->> 'after' AS after, e.reason, e.summary
FROM v_events e, json_each(e.refs) r
WHERE e.time >= :since AND r.value ->> 'before' IS NOT NULL
  AND (r.value ->> 'name' LIKE 'branch:%' OR r.value ->> 'name' LIKE 'tag:%')
  AND (r.value ->> 'after' IS NULL OR r.value ->> 'name' LIKE 'tag:%' OR EXISTS (
    SELECT 1 FROM v_commits c WHERE c.id = r.value ->> 'after' AND c.event < e.number))
ORDER BY e.number
