-- Requests that no deployment has used yet, with the approvals that they have
-- question: Q10
SELECT a.request, a.environment, a.revision, a.requested_by, a.requested_at, a.needed,
  count(a.approver) AS approvals, group_concat(a.approver, ', ') AS approvers
FROM v_approvals a
WHERE a.deployment IS NULL
GROUP BY a.request
ORDER BY a.request
