# Copyright 2026 featshare maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The security policy, by the genuine command line of SROS 2."""
from __future__ import annotations

import importlib.util
import os
from pathlib import Path
import subprocess
import sys
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
POLICY = ROOT / 'config' / 'sros2_policy.xml'
DOMAIN = '42'


def permissions(keystore: Path, policy: Path) -> ElementTree.Element:
    """Return the permissions that SROS 2 makes of a policy, by the commands of security.md."""
    for module in ('sros2', 'ros2cli'):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed; it comes with ROS 2, not from PyPI')
    for command in (('create_keystore', keystore), ('create_enclave', keystore, '/segmentation'),
                    ('create_permission', keystore, '/segmentation', policy)):
        result = subprocess.run(
            [sys.executable, '-c', 'import sys; from ros2cli.cli import main; sys.exit(main())',
             'security', *map(str, command)], capture_output=True, text=True, timeout=60,
            env={'AMENT_PREFIX_PATH': sys.prefix, **os.environ, 'ROS_DOMAIN_ID': DOMAIN})
        assert result.returncode == 0, result.stdout + result.stderr
    return ElementTree.parse(keystore / 'enclaves' / 'segmentation' / 'permissions.xml').getroot()


def test_sros2_accepts_the_policy(tmp_path: Path) -> None:
    grant, = permissions(tmp_path / 'keys', POLICY).iter('grant')
    assert grant.findtext('subject_name') == 'CN=/segmentation'
    assert grant.findtext('default') == 'DENY'
    assert not grant.findall('deny_rule')
    assert {element.text for element in grant.iterfind('*/domains/id')} == {DOMAIN}

    def topics(kind: str) -> set[str | None]:
        return {element.text for element in grant.iterfind(f'allow_rule/{kind}/topics/topic')}

    def dds(kind: str, prefix: str, end: str = '') -> set[str]:
        names = [element.text or '' for element in ElementTree.parse(POLICY).iterfind(kind)]
        return {prefix + (name if name[0] == '/' else name.replace('~/', '/segmentation/')
                          if name[0] == '~' else f'/{name}') + end for name in names}

    # By rmw_dds_common, every participant announces its nodes on this topic.
    graph = {'ros_discovery_info'}
    services = ".//services[@reply='ALLOW']/service"
    assert topics('publish') - graph == dds(".//topics[@publish='ALLOW']/topic", 'rt') \
        | dds(services, 'rr', 'Reply')
    assert topics('subscribe') - graph == dds(".//topics[@subscribe='ALLOW']/topic", 'rt') \
        | dds(services, 'rq', 'Request')


def test_sros2_refuses_a_policy_of_another_form(tmp_path: Path) -> None:
    wrong = tmp_path / 'policy.xml'
    wrong.write_text(POLICY.read_text().replace('publish="ALLOW"', 'publish="PERHAPS"'))
    with pytest.raises(AssertionError, match='PERHAPS'):
        permissions(tmp_path / 'keys', wrong)
