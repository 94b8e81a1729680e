-- What was live without a yes of somebody who neither made it nor asked for it
-- question: Q11
-- param env TEXT = : only this environment
-- expect: nothing
WITH people AS (
  SELECT request,
    CASE instr(approver, '<') WHEN 0 THEN approver ELSE substr(approver, instr(approver, '<')) END
      AS approver,
    CASE instr(commit_author, '<') WHEN 0 THEN commit_author
      ELSE substr(commit_author, instr(commit_author, '<')) END AS author,
    CASE instr(requested_by, '<') WHEN 0 THEN requested_by
      ELSE substr(requested_by, instr(requested_by, '<')) END AS asker
  FROM v_approvals WHERE approver IS NOT NULL
), others AS (
  SELECT request, count(DISTINCT approver) AS people FROM people
  WHERE approver <> author AND approver <> asker GROUP BY request
)
SELECT d.environment, d.deployment, d.revision, d.time, d.until, d.actor, d.commit_author,
  d.approvals, d.approvals_needed,
  CASE WHEN d.approvals = 0 THEN 'no approval'
    WHEN coalesce(o.people, 0) = 0 THEN 'approved by those who made it or asked for it only'
    ELSE 'fewer approvals of others than needed' END AS why
FROM v_deployments d LEFT JOIN others o ON o.request = d.request
WHERE d.action <> 'rollback' AND (:env = '' OR d.environment = :env)
  AND (d.approvals = 0 OR coalesce(o.people, 0) < max(1, d.approvals_needed))
ORDER BY d.event
