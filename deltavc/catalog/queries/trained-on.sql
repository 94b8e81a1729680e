-- Data, licence, run and code that a version was trained with; what was not recorded says so
-- question: Q13
-- param rev REVISION: the version
WITH this AS (SELECT id, run FROM v_commits WHERE id = :rev)
SELECT 'data' AS what, coalesce(d.name, 'not recorded') AS value, d.sha256, d.size
FROM this LEFT JOIN v_data d ON d.revision = this.id
UNION ALL
SELECT 'run', coalesce(this.run, 'not recorded'), NULL, NULL FROM this
UNION ALL
SELECT 'licence', coalesce(l.value, 'not recorded'), NULL, NULL
FROM this LEFT JOIN v_labels l
  ON l.revision = this.id AND l.name IN ('licence', 'license', 'data_licence', 'data_license')
UNION ALL
SELECT 'code', coalesce(l.value, 'not recorded'), NULL, NULL
FROM this LEFT JOIN v_labels l
  ON l.revision = this.id AND l.name IN ('code', 'code_commit', 'commit', 'git', 'git_commit')
UNION ALL
SELECT 'label ' || l.name, l.value, NULL, NULL
FROM this JOIN v_labels l ON l.revision = this.id
WHERE l.name NOT IN ('licence', 'license', 'data_licence', 'data_license', 'code', 'code_commit',
  'commit', 'git', 'git_commit')
